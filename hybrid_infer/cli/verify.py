"""``hybrid-infer verify``: are the copies of a model that could serve the same model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_infer.cli import options, output, streams

if TYPE_CHECKING:
    from hybrid_infer.datatypes.parity import ParityReport, ProbeParity


def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="embeddings/small, chat/small, or org/name.")
    ],
    as_json: options.JsonOption = False,
    policy: options.PolicyOption = None,
    profile: options.ProfileOption = None,
    models: options.ModelsOption = None,
    base_url: options.BaseUrlOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    strict: options.StrictOption = False,
) -> None:
    """Compare remotes with the local copy on hostile texts, or what is here with known vectors.

    Exits 1 if anything differs or fails, 2 if there is nothing to compare (unverifiable).
    """
    with options.open_client(
        policy=policy,
        profile=profile,
        models=models,
        base_url=base_url,
        device=device,
        dtype=dtype,
        strict=strict,
    ) as client:
        report = client.verify(name)
    if as_json:
        output.print_json(report)
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(output.EXIT_FAILED)


def _show(report: ParityReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = output.tables()
    revision = (report.revision or "main")[:7]
    console.print(f"[bold]{escape(report.name)}[/bold] {escape(report.repo)}@{revision}, "
                  f"{report.compared.replace(':', ' against ')}")  # fmt: skip
    if report.probes:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for heading in ("side", "probe"):
            table.add_column(heading, overflow="fold")
        for heading in ("cosine", "max abs", "dim", "norm"):
            table.add_column(heading, justify="right")
        table.add_column("", overflow="fold")
        for row in report.probes:
            table.add_row(*(escape(cell) for cell in _cells(row, report.dim)))
        console.print(table)
    in_table = {f"{row.target}: {row.probe}: {row.why}" for row in report.probes}
    for line in (line for line in report.failures if line not in in_table):
        console.print(f"[red]{streams.mark('✗')}[/red] {escape(line)}")
    for line in report.left_out:
        console.print(f"{streams.mark('·')} left out: {escape(line)}")
    console.print(escape(_verdict(report)), style="green" if report.ok else "bold red")


def _cells(row: ProbeParity, dim: int | None) -> tuple[str, ...]:
    return (
        row.target,
        row.probe,
        "" if row.cosine is None else f"{row.cosine:.7f}",
        "" if row.max_abs is None else f"{row.max_abs:.1e}",
        "" if row.cosine is None or dim is None else str(dim),
        "" if row.norm is None else f"{row.norm:.6f}",
        row.why or "ok",
    )


def _verdict(report: ParityReport) -> str:
    parts = ["ok" if report.ok else "not ok"]
    if report.cos_min is not None and report.max_abs is not None:
        parts.append(f"least cosine {report.cos_min:.7f} (at least {report.bound} wanted)")
        parts.append(f"max abs {report.max_abs:.1e}")
    if report.dtype is not None:
        parts.append(f"local {report.dtype}")
    return f" {streams.mark('·')} ".join(parts)
