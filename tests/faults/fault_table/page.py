"""docs/faults.md: the fault table in words, made of the same file that the tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fault_table.expected import Expected, Range
from fault_table.table import Row, Table, Variant

PATH = Path(__file__).parents[3] / "docs" / "faults.md"
MOST_NAMES = 3
RUNNER = "tests/faults/test_faults.py"
HEAD = """\
# Faults

What this library promises for every fault that it knows of, and which test shows it. This page is
made from `tests/faults/faults.yaml` by `scripts/make_fault_docs.py`; the tests read the same file.

- **With a local copy**: the same model is loaded on this machine. **Alone**: it is not, or only the
  remote may be used.
- **Closed**: what later calls find closed, so that they send nothing there. A *host* is an address, an
  *account* a remote with its key, a *model* one model at one remote. A fault that *counts* opens the
  model's breaker when it happens five times in a row, or in half of the last 20 calls, for 10 s at
  first; one probe then goes first. `client.status()` tells what is closed, `client.reset()` forgets it.
- **Surfaces**: `sync` and `async` are the two clients, `stream` is a streamed chat of either.

Every call ends once, with a result or one typed error, by its deadline. `./scripts/test tests/faults`
prints `faults=… calls=… lost=0 duplicated=0 late=0 pending=…` at its end; `scripts/faults.py
--calls 1000` does the same with as many calls for each fault, surface and mode.
"""
GATES = """\
## Gates

What was counted when each was last run at its full size, on two cores; the tests print the same lines
with the small sizes that CI has time for.

| gate | counted | run by |
| --- | --- | --- |
| bits flipped in a snapshot | 1,000 of 1,000 noticed | `test_verification.py` |
| bits flipped in a bundle | 200 of 200 noticed, and 200 of 200 in a packed one; nothing placed | `test_bundles.py`, `test_packed_bundles.py` |
| comparing weights with models.lock | 0.72 to 0.77 s per GB, 1.7 to 2.8 ms for a model the second time | `scripts/bench_lock.py` |
| pulls killed by SIGKILL at a random step | 50 of 50 followed by a clean start | `test_killed_pulls.py`, `HYBRID_INFER_TEST_KILLS=50` |
| commands ended by SIGTERM, SIGINT or SIGKILL in each of 22 phases | 66 of 66 followed by a clean run; no held lock, draft, unfinished file or child process stayed | `test_signals.py`, `HYBRID_INFER_TEST_SIGNALS=all` |
| first loads at once | 8 processes of 64 threads: 8 loads; 4 processes that pull: each file fetched once | `test_snapshots.py`, `HYBRID_INFER_TEST_PROCESSES=8`; `test_killed_pulls.py` |
| clients closed with 200 calls in flight | 100 shutdowns: 14,213 results, 5,787 typed errors, 0 others; the process ended within 11 s | `test_lifecycle.py`, `HYBRID_INFER_TEST_SHUTDOWNS=100` |
| calls cancelled at a random moment | 10,000 local (5,032 before their end) and 10,000 remote (5,779): 0 tasks, threads, files, busy engines left | `test_lifecycle.py`, `HYBRID_INFER_TEST_CANCELLATIONS=10000` |
| a canary key in 1,676 texts of 147 errors | 0 hits | `test_secrets.py` |
| sockets opened by every command and call on local models, with and without an offline switch | 0; `serve`, `fake-remote` and the demo: their own ports on 127.0.0.1 alone | `test_no_network.py` |
| fuzzing, 10 targets of 25 s | 8,662,486 executions, 0 crashes | `scripts/audit/run fuzz 25` |
| bandit | 0 findings above low (31 low) | `scripts/audit/run static` |
| software bill of materials | 241 components | `scripts/audit/run sbom` |
| installed by hash | 203 packages, 0 otherwise than `requirements.lock` | `scripts/lock.py --check` |
| pip-audit | nothing compared: none of 242 packages could be looked up from that machine | `scripts/audit/run advisories` |
"""
_TITLES = {
    "R": "The remote",
    "L": "This machine and the caller",
    "S": "The server",
}


def page(table: Table) -> str:
    """The whole page."""
    done = [row for row in table.rows if table.is_due(row)]
    rest = "; the others are pending" if len(done) < len(table.rows) else ""
    parts = [HEAD, f"{len(done)} of {len(table.rows)} faults are proven{rest}.\n"]
    for letter, title in _TITLES.items():
        rows = [row for row in table.rows if row.id[0] == letter]
        parts.append(f"## {title}\n")
        parts.append(_remote_table(table, rows) if letter == "R" else _local_table(table, rows))
    return "\n".join([*parts, GATES])


def _remote_table(table: Table, rows: Iterable[Row]) -> str:
    lines = [
        "| | fault | with a local copy | alone | closed | surfaces | shown by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (
            row.id,
            row.fault,
            _said(row, "with_local", _outcome),
            _said(row, "alone", _outcome),
            _closing(row),
            ", ".join(row.surfaces),
            _shown_by(table, row),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _local_table(table: Table, rows: Iterable[Row]) -> str:
    lines = [
        "| | fault | what happens | surfaces | shown by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        surfaces = ", ".join(row.surfaces)
        cells = (row.id, row.fault, row.outcome, surfaces, _shown_by(table, row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown_by(table: Table, row: Row) -> str:
    if not table.is_due(row):
        return f"pending: {table.subjects[row.owner]}"
    if row.variants:
        forms = "form" if len(row.variants) == 1 else "forms"
        return f"[test_faults.py](../{RUNNER}), {len(row.variants)} {forms}"
    files = dict.fromkeys(name.partition("::")[0] for name in row.tests)
    return ", ".join(f"[{Path(file).name}](../{file})" for file in files)


def _said(row: Row, mode: str, words: Callable[[Expected], str]) -> str:
    """What happens, with the names of the forms for which it is something else."""
    by_words: dict[str, list[str]] = {}
    for variant in row.variants:
        expected: Mapping[str, Expected] = getattr(variant, mode)
        for one in list(expected.values())[:1]:
            by_words.setdefault(words(one), []).append(variant.name)
    usual, *others = by_words.items() if by_words else [("", [])]
    told = [usual[0] or "-"]
    told += [f"{_names(names)}: {said or 'nothing'}" for said, names in others]
    return "; ".join(told)


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES])
    return f"*{shown} …*" if len(names) > MOST_NAMES else f"*{shown}*"


def _outcome(expected: Expected) -> str:
    if expected.error is not None:
        said = f"`{expected.error}`"
    elif expected.answer == "joined":
        said = f"the local copy goes on where it broke, `{expected.reason}`"
    elif expected.answer == "local":
        said = f"local, `{expected.reason}`"
    else:
        said = "the remote answers"
    if expected.requests != (1.0, 1.0):
        said += f", {_number(expected.requests)} requests"
    if expected.answer == "remote" and expected.waited[0] > 0:
        said += f", after {_number(expected.waited)} s"
    return said


def _closing(row: Row) -> str:
    def closed(expected: Expected) -> str:
        if expected.closed is None:
            return "nothing"
        return f"{expected.closed.scope}, {_number(expected.closed.seconds)} s"

    said = _said(row, "with_local", closed)
    counted = {_counts(variant) for variant in row.variants} - {""}
    return "; ".join([said.removeprefix("nothing; ") if counted else said, *sorted(counted)])


def _counts(variant: Variant) -> str:
    return "counts" if variant.counts == "model" else ""


def _number(bounds: Range) -> str:
    low, high = (f"{bound:g}" for bound in bounds)
    return low if low == high else f"{low} to {high}"
