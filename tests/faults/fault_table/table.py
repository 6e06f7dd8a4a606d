"""Reads faults.yaml: every fault, whose subject it is, and what must follow from it.

A variant takes each setting from the most particular place that has it: its own ``for:`` a surface,
itself, the row's ``for:`` that surface, the row.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fault_table.expected import SCOPES, Expected, TableError, check_known, read_expected

PATH = Path(__file__).parents[1] / "faults.yaml"
SURFACES = ("sync", "async", "stream")
PLACES = (
    "fake",
    "down",
    "no_name",
    "black_hole",
    "tls_unknown_authority",
    "tls_expired",
    "tls_wrong_host",
    "two_remotes",
    "broken_local",
    "another_model",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of a fault.

    Attributes:
        row_id: the fault.
        name: what distinguishes it.
        steps: the remote's script, as `hybrid_infer.testing.load_scenario` reads it.
        place: where the fault is.
        task: what ``sync`` and ``async`` ask for; a stream is always chat.
        options: of the call.
        settings: of the client, group by group.
        before: calls that go first, and are served.
        before_steps: the remote's script for them.
        sweep: a number of the reply that is counted up, by how much, and how far at most.
        impatience: routing settings while the fault lasts; the clock then runs by itself.
        counts: whose breaker counts it.
        with_local: what must follow with a warm local copy, by surface.
        alone: the same with no local copy.
    """

    row_id: str
    name: str
    steps: tuple[Mapping[str, Any], ...]
    place: str
    task: str
    options: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    before: int
    before_steps: tuple[Mapping[str, Any], ...]
    sweep: tuple[str, int, int | None] | None
    impatience: Mapping[str, float]
    counts: str | None
    with_local: Mapping[str, Expected]
    alone: Mapping[str, Expected]

    @property
    def id(self) -> str:
        """Row and name."""
        return f"{self.row_id}-{self.name}"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: what it is, whose subject, where it shows, and what proves the outcome.

    `outcome` and `closes` are words for rows that have no variants to tell it.
    """

    id: str
    fault: str
    owner: int
    surfaces: tuple[str, ...]
    variants: tuple[Variant, ...]
    tests: tuple[str, ...]
    outcome: str
    closes: str


@dataclass(frozen=True, slots=True)
class Table:
    """The whole file."""

    owners_done: tuple[int, ...]
    subjects: Mapping[int, str]
    rows: tuple[Row, ...]

    @property
    def pending(self) -> tuple[Row, ...]:
        """Rows whose subject is not done yet."""
        return tuple(row for row in self.rows if not self.is_due(row))

    def is_due(self, row: Row) -> bool:
        """Whether `row` must be proven now."""
        return row.owner in self.owners_done

    def variants(self) -> list[Variant]:
        """Everything that the runner runs."""
        return [variant for row in self.rows for variant in row.variants]


def load_table(path: Path = PATH) -> Table:
    """Read and check the table.

    Raises:
        TableError: it is wrong; the message names the row.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, Mapping) or set(document) != {"owners_done", "subjects", "rows"}:
        raise TableError("the file has owners_done, subjects and rows, and nothing else")
    rows = tuple(_row(entry) for entry in document["rows"])
    ids = [row.id for row in rows]
    for row in rows:
        if ids.count(row.id) > 1:
            raise TableError(f"{row.id} is there twice")
        if row.owner not in document["subjects"]:
            raise TableError(f"{row.id}: owner {row.owner} has no subject")
    return Table(tuple(document["owners_done"]), document["subjects"], rows)


_ROW_KEYS = {"id", "fault", "owner", "surfaces", "tests", "outcome", "closes", "variants"}
_SHARED_KEYS = {
    "steps", "place", "task", "options", "settings", "before", "sweep", "impatience", "counts",
    "with_local", "alone", "for", "before_steps",
}  # fmt: skip
_VARIANT_KEYS = _SHARED_KEYS | {"name", "each", "surfaces"}


def _row(entry: Mapping[str, Any]) -> Row:
    row_id = str(entry.get("id"))
    check_known(entry, _ROW_KEYS | _SHARED_KEYS, row_id)
    surfaces = tuple(entry.get("surfaces", ()))
    if not set(surfaces) <= set(SURFACES):
        raise TableError(f"{row_id}: surfaces are {', '.join(SURFACES)}")
    if not isinstance(entry.get("fault"), str) or not isinstance(entry.get("owner"), int):
        raise TableError(f"{row_id} needs a fault in words and the number of its owner")
    variants = tuple(
        _variant(row_id, entry, particular, surfaces)
        for given in entry.get("variants", ())
        for particular in _expanded(given, row_id)
    )
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise TableError(f"{row_id} has two variants of one name")
    return Row(
        row_id, entry["fault"], entry["owner"], surfaces, variants,
        tuple(entry.get("tests", ())), entry.get("outcome", ""), entry.get("closes", ""),
    )  # fmt: skip


def _expanded(given: Mapping[str, Any], row_id: str) -> list[Mapping[str, Any]]:
    """One variant for each combination of ``each``; ``$name`` stands for the value."""
    check_known(given, _VARIANT_KEYS, f"{row_id}: {given.get('name')}")
    if "each" not in given:
        return [given]
    names = list(given["each"])
    found = []
    for values in itertools.product(*given["each"].values()):
        particular = _filled(
            {key: value for key, value in given.items() if key != "each"},
            dict(zip(names, values, strict=True)),
        )
        labels = [str(value) for value in (given.get("name"), *values) if value is not None]
        found.append({**particular, "name": " ".join(labels)})
    return found


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        return values[value[1:]]
    if isinstance(value, Mapping):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return value


def _variant(
    row_id: str, row: Mapping[str, Any], given: Mapping[str, Any], surfaces: Sequence[str]
) -> Variant:
    def pick(key: str, default: Any = None) -> Any:
        return given.get(key, row.get(key, default))

    name = str(given.get("name", "it"))
    where = f"{row_id} {name}"
    place, counts = pick("place", "fake"), pick("counts")
    if place not in PLACES:
        raise TableError(f"{where}: place {place} is none of {', '.join(PLACES)}")
    if counts not in (None, *SCOPES):
        raise TableError(f"{where}: counts for nothing, or for one of {', '.join(SCOPES)}")
    sweep = pick("sweep")
    shown = given.get("surfaces", surfaces)
    if not shown or not set(shown) <= set(surfaces):
        raise TableError(f"{where}: surfaces are some of the row's")

    def expected(mode: str) -> dict[str, Expected]:
        found = {}
        for surface in shown:
            layers = [row, row.get("for", {}).get(surface, {}), given]
            layers.append(given.get("for", {}).get(surface, {}))
            if not any(mode in layer for layer in layers):
                continue
            merged: dict[str, Any] = {}
            if mode == "alone":
                merged = {
                    key: value
                    for layer in layers
                    for key, value in layer.get("with_local", {}).items()
                    if key in ("closed", "reason", "requests")
                }
            for layer in layers:
                merged |= layer.get(mode, {})
            found[surface] = read_expected(merged, f"{where} {mode} {surface}", mode)
        return found

    return Variant(
        row_id, name, tuple(pick("steps", ())), place, pick("task", "embeddings"),
        pick("options", {}), pick("settings", {}), pick("before", 0),
        tuple(pick("before_steps", ())),
        None if sweep is None else _sweep(dict(sweep)), pick("impatience", {}), counts,
        expected("with_local"), expected("alone"),
    )  # fmt: skip


def _sweep(given: dict[str, int]) -> tuple[str, int, int | None]:
    most = given.pop("most", None)
    ((number, stride),) = given.items()
    return number, stride, most
