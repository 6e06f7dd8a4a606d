"""What must follow from a fault, for one way of calling, as faults.yaml says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hybrid_infer import errors
from hybrid_infer.datatypes.route import Reason

ANSWERS = ("local", "remote", "joined")
SCOPES = ("host", "account", "model")

Range = tuple[float, float]


class TableError(Exception):
    """faults.yaml says something that the runner does not understand."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What a fault closes: its scope, for how long, and in which state."""

    scope: str
    seconds: Range
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What must follow from a fault, for one way of calling.

    Attributes:
        answer: who serves the call: ``local``, ``remote``, ``joined`` (a stream that changes
            sides); None where `error` is raised.
        error: the class of the error.
        reason: why, on the route, or on every attempt of the error.
        requests: how many requests arrive at the remote.
        waited: virtual seconds of sleep.
        closed: what is closed afterwards; None: nothing.
        retry_after: of the error; None: not checked.
        notes: words that the error's text or notes must hold.
    """

    answer: str | None
    error: str | None
    reason: str | None
    requests: Range
    waited: Range
    closed: Closed | None
    retry_after: Range | None
    notes: tuple[str, ...]


def check_known(entry: Mapping[str, Any], keys: set[str], where: str) -> None:
    """Refuse a key that means nothing.

    Raises:
        TableError: there is one.
    """
    unknown = set(entry) - keys
    if unknown:
        raise TableError(f"{where}: unknown {', '.join(sorted(unknown))}")


def read_expected(merged: Mapping[str, Any], where: str, mode: str) -> Expected:
    """One way's expectation.

    Raises:
        TableError: it is wrong; the message begins with `where`.
    """
    check_known(merged, {field.name for field in fields(Expected)}, where)
    answer, error = merged.get("answer"), merged.get("error")
    if (answer is None) == (error is None):
        raise TableError(f"{where}: either an answer or an error is expected")
    if answer not in (None, *ANSWERS):
        raise TableError(f"{where}: {answer} is none of {', '.join(ANSWERS)}")
    if error is not None and not hasattr(errors, error):
        raise TableError(f"{where}: there is no {error}")
    reason = merged.get("reason")
    if reason is not None:
        Reason(reason)
    waited = merged.get("waited", 0 if mode == "with_local" else [0, 3600])
    after = merged.get("retry_after")
    return Expected(
        answer, error, reason, _range(merged.get("requests", 1)), _range(waited),
        _closed(merged.get("closed"), reason, where), None if after is None else _range(after),
        tuple(merged.get("notes", ())),
    )  # fmt: skip


def _closed(given: Mapping[str, Any] | None, reason: str | None, where: str) -> Closed | None:
    if given is None:
        return None
    check_known(given, {"scope", "seconds", "state", "reason"}, where)
    if given["scope"] not in SCOPES:
        raise TableError(f"{where}: {given['scope']} is none of {', '.join(SCOPES)}")
    why = given.get("reason", reason)
    return Closed(given["scope"], _range(given["seconds"]), given.get("state", "gated"), str(why))


def _range(value: Any) -> Range:
    low, high = value if isinstance(value, list) else (value, value)
    return float(low), float(high)
