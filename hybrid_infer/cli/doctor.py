"""``hybrid-infer doctor``: what works here, what does not, and what would fix it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from hybrid_infer.cli import options, output, streams


def doctor(
    no_network: Annotated[
        bool, typer.Option("--no-network", help="Do not try to reach any remote.")
    ] = False,
    as_json: options.JsonOption = False,
    profile: options.ProfileOption = None,
    models: options.ModelsOption = None,
    base_url: options.BaseUrlOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
) -> None:
    """Examine token, network, machine and models. Exits 1 if no alias can be served."""
    from hybrid_infer.cli.diagnosis import examine

    found = examine(
        network=not no_network,
        profile=profile,
        models=models,
        base_url=base_url,
        device=device,
        dtype=dtype,
    )
    if as_json:
        output.print_json(found)
    else:
        _show(found)
    if not found["can_serve"]:
        raise typer.Exit(output.EXIT_FAILED)


def _show(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = output.tables()
    good_mark, bad_mark = f"[green]{streams.mark('✓')}[/green]", f"[red]{streams.mark('✗')}[/red]"
    marks = {True: good_mark, False: bad_mark, None: streams.mark("·")}
    for title, lines in _sections(found):
        console.print(f"[bold]{title}[/bold]")
        for good, text in lines:
            console.print(f"  {marks[good]} {escape(text)}")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("model", "downloaded", "fits", "local", "can do locally", "remote"):
        table.add_column(heading, overflow="fold")
    for row in found["models"]:
        table.add_row(
            row["name"],
            _yes(row["downloaded"]),
            _yes(row["fits"]),
            f"{row['local']} ({_placement(row)})" if row["dtype"] else row["local"],
            ", ".join(row["capabilities"]),
            ", ".join(f"{name}: {state}" for name, state in row["remotes"].items()) or "none",
        )
    console.print(table)
    for step in found["next_steps"]:
        console.print(escape(f"{streams.mark('→')} {step}"))


def _placement(row: dict[str, Any]) -> str:
    weights = row["quantization"] or row["dtype"]
    return f"{weights} on {row['device']}, up to {row['bytes'] / 1e9:.1f} GB"


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[value]


Line = tuple[bool | None, str]


def _sections(found: dict[str, Any]) -> Iterator[tuple[str, list[Line]]]:
    yield "versions", [_version(version) for version in found["versions"]]
    yield "API key", [_key(key) for key in found["keys"]]
    variable = found["offline_variable"]
    offline = f"{variable} is set: Hugging Face is not used" if variable else "no switch is set"
    yield "offline", [(None, offline)]
    yield "remotes", [_remote(remote) for remote in found["remotes"]]
    yield "machine", [(None, line) for line in found["machine"]["summary"]]
    yield "cache", [(None, found["cache"])]


def _version(version: dict[str, Any]) -> Line:
    wanted = f" (needs {version['required']})" if version["required"] else ""
    return version["ok"], f"{version['name']} {version['installed'] or 'is missing'}{wanted}"


def _key(key: dict[str, Any]) -> Line:
    if key["source"] is None:
        return (False if key["needed"] else None), f"{key['remote']}: none; {key['advice']}"
    return True, f"{key['remote']}: {key['masked']} from {key['source']}"


def _remote(remote: dict[str, Any]) -> Line:
    return remote["reachable"], f"{remote['name']} {remote['url']}: {remote['detail']}"
