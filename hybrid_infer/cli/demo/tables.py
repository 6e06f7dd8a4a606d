"""The demo's result as a table and one line of verdict."""

from __future__ import annotations

from hybrid_infer.cli import output, streams
from hybrid_infer.cli.demo.records import PhaseRow, Report


def show(report: Report) -> None:
    """Print the table and the verdict on stdout."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("phase")
    for heading in ("calls", "lost", "by remote", "by local", "requests\nat remote"):
        table.add_column(heading, justify="right")
    table.add_column("p50 latency\nof embed", justify="right")
    table.add_column("cosine of local\nto remote, min", justify="right")
    table.add_column("local dtype")
    for row in report.rows:
        table.add_row(*_cells(row))
    console = output.tables()
    console.print(table)
    console.print(
        f"embeddings: the real all-MiniLM-L6-v2 on both sides; chat: {report.chat}", style="dim"
    )
    console.print()
    console.print(verdict(report), style="bold green" if report.passed else "bold red")


def _cells(row: PhaseRow) -> tuple[str, ...]:
    return (
        row.phase,
        str(row.calls),
        str(row.lost),
        str(row.served_remote),
        str(row.served_local),
        str(row.requests_at_remote),
        f"{row.p50_milliseconds:.0f} ms",
        "" if row.cosine_min is None else f"{floored(row.cosine_min)}",
        row.dtype or "",
    )


def floored(cosine: float) -> str:
    """Six decimals, never rounded up."""
    return f"{int(cosine * 1e6) / 1e6:.6f}"


def verdict(report: Report) -> str:
    """One line: what was lost, and whether the vectors agree."""
    if report.cosine_min is None:
        agreement = "no text was embedded on both sides, so nothing could be compared"
    else:
        sign = streams.mark("≥") if report.cosine_min >= report.cosine_bound else "<"
        agreement = f"cosine {floored(report.cosine_min)} {sign} {report.cosine_bound:g}"
    return f"{report.lost} calls lost of {report.calls}; {agreement}"
