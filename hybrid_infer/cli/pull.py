"""``hybrid-infer pull``: put models on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_infer.cli import options, output
from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from hybrid_infer import HybridClient


def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="embeddings/small, chat/small, or org/name."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every alias.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Take the files of one NAME from a folder."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")
    ] = False,
    as_json: options.JsonOption = False,
    profile: options.ProfileOption = None,
    models: options.ModelsOption = None,
    strict: options.StrictOption = False,
) -> None:
    """Download models to the Hub's cache, so that they can serve without the remote."""
    if bool(names) == everything:
        raise output.UsageFault(
            "name what to pull, or --all; `hybrid-infer models` lists the names"
        )
    if source is not None and (everything or dry_run or len(names or ()) != 1):
        raise output.UsageFault("--from takes the files of exactly one NAME")
    if dry_run:
        from hybrid_infer.cli.pull_plans import show_plans

        raise typer.Exit(show_plans(names, profile=profile, models=models, as_json=as_json))
    with options.open_client(profile=profile, models=models, strict=strict) as client:
        wanted = _every_name(client) if everything else list(names or ())
        folders, failures = _pull_each(client, wanted, source, as_json=as_json)
    if as_json:
        failed = {name: output.describe_error(error) for name, error in failures.items()}
        output.print_json({"pulled": folders, "failed": failed})
    if failures:
        raise typer.Exit(max(output.exit_code(error) for error in failures.values()))


def _every_name(client: HybridClient) -> list[str]:
    """One alias of each repository."""
    by_repository: dict[str, str] = {}
    for row in client.list_models():
        by_repository.setdefault(row["repo"], row["name"])
    return list(by_repository.values())


def _pull_each(
    client: HybridClient, names: list[str], source: Path | None, *, as_json: bool
) -> tuple[dict[str, Path], dict[str, HybridInferError]]:
    """Pull every name even if one fails: a gated model must not keep the others away."""
    folders: dict[str, Path] = {}
    failures: dict[str, HybridInferError] = {}
    show_progress = sys.stderr.isatty() and not as_json
    for name in names:
        try:
            folders[name] = client.pull(name, source, progress=show_progress)
        except HybridInferError as error:
            failures[name] = error
            if not as_json:
                output.show_error(error, as_json=False)
        else:
            if not as_json:
                print(f"{name}: {folders[name]}", flush=True)
    return folders, failures
