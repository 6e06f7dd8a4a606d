"""``hybrid-infer models``: what may be asked for, and what is on this machine."""

from __future__ import annotations

from typing import Any

from hybrid_infer.cli import options, output

MARKS = {"warm": "loaded", "loading": "loading", "cold": "yes", "absent": "no"}


def models(
    as_json: options.JsonOption = False,
    profile: options.ProfileOption = None,
    models: options.ModelsOption = None,
    base_url: options.BaseUrlOption = None,
) -> None:
    """List every alias: its repository, whether it is on this machine, and who serves it."""
    with options.open_client(profile=profile, models=models, base_url=base_url) as client:
        rows = client.list_models()
    if as_json:
        output.print_json({"models": rows})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "repository", "revision", "size", "on this machine", "remotes"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    output.tables().print(table)
    if any(row["local"] == "absent" for row in rows):
        output.terminal().print("fetch one with: hybrid-infer pull NAME", style="dim")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    sizes = (
        f"{row['dim']} dim" if row["dim"] else "",
        f"{row['max_seq_length']} tokens" if row["max_seq_length"] else "",
        f"{row['context_length']} tokens" if row["context_length"] else "",
    )
    return (
        row["name"],
        row["repo"],
        (row["revision"] or "main")[:7],
        ", ".join(size for size in sizes if size),
        MARKS.get(row["local"], row["local"]),
        ", ".join(row["remotes"]) or "none",
    )
