"""``hybrid-infer bundle``: models in one file, for machines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_infer.cli import options, output

if TYPE_CHECKING:
    from hybrid_infer.snapshots.bundles import Bundle

app = typer.Typer(no_args_is_help=True, help="Models in one file, for machines without a network.")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The bundle.")]


@app.command()
def create(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="embeddings/small, chat/small, or org/name."),
    ],
    target: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to write; packed if it ends in .zst."
        ),
    ],
    as_json: options.JsonOption = False,
    models: options.ModelsOption = None,
) -> None:
    """Pack models that are on this machine, with their hashes and aliases."""
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.bundles import create_bundle

    registry = load_registry(models)
    bundle = create_bundle(target, [registry.resolve_named(name) for name in names])
    _show(target, bundle, as_json=as_json)


@app.command()
def inspect(file: FileArgument, as_json: options.JsonOption = False) -> None:
    """Read a bundle through, compare every byte with its lock, and list what it holds."""
    from hybrid_infer.snapshots.bundles import inspect_bundle

    _show(file, inspect_bundle(file), as_json=as_json)


@app.command()
def install(file: FileArgument, as_json: options.JsonOption = False) -> None:
    """Verify a bundle, then place its models into the Hub's cache. Needs no network."""
    from hybrid_infer.snapshots.installing import install_bundle

    done = install_bundle(file)
    if as_json:
        folders = {
            model.name: done.folders[model.repo, model.revision] for model in done.bundle.models
        }
        output.print_json(
            {
                "installed": folders,
                "other_mains": done.other_mains,
                "models_yaml": done.models_yaml,
            }
        )
        return
    for model in done.bundle.models:
        print(f"{model.name}: {done.folders[model.repo, model.revision]}")
    for repo, main in done.other_mains.items():
        print(f"{repo}: main stays {main}, which this machine had before")
    print(f"aliases of the bundle, should yours differ: --models {done.models_yaml}")


def _show(file: Path, bundle: Bundle, *, as_json: bool) -> None:
    """List a bundle, with the hash by which its receiver knows that it is the same."""
    from hybrid_infer.cli.pull_plans import gigabytes

    if as_json:
        rows = [
            {
                "name": model.name,
                "repo": model.repo,
                "revision": model.revision,
                "files": bundle.locked[model.repo, model.revision],
            }
            for model in bundle.models
        ]
        output.print_json({"file": file, "sha256": bundle.sha256, "models": rows})
        return
    for model in bundle.models:
        files = bundle.locked[model.repo, model.revision]
        size = gigabytes(sum(entry.size for entry in files.values()))
        print(f"{model.name}  {model.repo}@{model.revision[:7]}  {len(files)} files, {size}")
    print(f"sha256 {bundle.sha256}  {file}{', unpacked' if file.suffix == '.zst' else ''}")
