"""The fault table's own options, its world, and the one line at the end of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_table.calls import CallLedger
from fault_table.table import load_table
from fault_table.world import World

COUNTS = ("calls", "lost", "duplicated", "late")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-calls",
        type=int,
        default=1,
        help="calls for each fault, caller and mode; at least one for each variant",
    )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Ends with its module: its servers and threads are not the other tests' business."""
    with World() as made:
        yield made


@pytest.fixture
def count(record_property):
    """Records a test's calls, which pytest brings to the summary, from workers too."""

    def counted(row_id: str, calls: CallLedger) -> None:
        record_property("fault", row_id)
        record_property("calls", calls.num_calls)
        record_property("lost", calls.num_lost)
        record_property("duplicated", calls.num_duplicated)
        record_property("late", calls.num_late)

    return counted


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
    ]
    properties = [pair for report in reports for pair in report.user_properties]
    faults = {value for name, value in properties if name == "fault"}
    if not faults:
        return
    table = load_table()
    run = {report.nodeid.partition("[")[0] for report in reports}
    faults |= {row.id for row in table.rows if run & set(row.tests)}
    sums = {count: sum(v for name, v in properties if name == count) for count in COUNTS}
    told = " ".join(f"{name}={value}" for name, value in sums.items())
    terminalreporter.write_line(f"faults={len(faults)} {told} pending={len(table.pending)}")
