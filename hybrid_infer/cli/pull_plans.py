"""``hybrid-infer pull --dry-run``: what would be fetched, and whether there is room for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_infer.cli import output
from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from hybrid_infer.snapshots.download import PullPlan


def show_plans(
    names: Sequence[str] | None, *, profile: str | None, models: Path | None, as_json: bool
) -> int:
    """Ask the Hub about each model, and print what it says.

    Args:
        names: of the models; None: every alias's.
        profile: as the client's.
        models: as the client's.
        as_json: whether to print one JSON value.

    Returns:
        The exit code.

    Raises:
        ConfigError: models.yaml or an environment variable is wrong.
    """
    plans, failures = _plans(names, profile, models)
    if as_json:
        failed = {name: output.describe_error(error) for name, error in failures.items()}
        output.print_json({"plans": plans, "failed": failed})
    else:
        _show(plans)
        for error in failures.values():
            output.show_error(error, as_json=False)
    return max((output.exit_code(error) for error in failures.values()), default=0)


def _plans(
    names: Sequence[str] | None, profile: str | None, models: Path | None
) -> tuple[list[PullPlan], dict[str, HybridInferError]]:
    from hybrid_infer.registry import load_registry
    from hybrid_infer.remote.keys import find_key, is_huggingface_host
    from hybrid_infer.snapshots.download import plan_pull

    registry = load_registry(models, profile=profile)
    keys = (
        find_key(remote, None)
        for remote in registry.remotes
        if is_huggingface_host(remote.base_url)
    )
    token = next((key.reveal() for key in keys if key is not None), None)
    aliases = {spec.repo: spec.name for spec in reversed(registry.models)}
    plans, failures = [], {}
    for name in names or list(aliases.values())[::-1]:
        try:
            plans.append(plan_pull(registry.resolve_named(name), token=token))
        except HybridInferError as error:
            failures[name] = error
    return plans, failures


def _show(plans: Sequence[PullPlan]) -> None:
    from rich.table import Table

    if not plans:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("model", "repository"):
        table.add_column(heading, overflow="fold")
    for heading in ("files", "size", "to fetch"):
        table.add_column(heading, justify="right")
    for plan in plans:
        table.add_row(
            plan.name,
            f"{plan.repo}@{plan.revision[:7]}",
            str(len(plan.files)),
            gigabytes(sum(plan.files.values())),
            gigabytes(plan.missing_bytes),
        )
    console = output.tables()
    console.print(table)
    wanted = sum({plan.repo: plan.missing_bytes for plan in plans}.values())
    console.print(f"{gigabytes(wanted)} to fetch, {gigabytes(plans[0].free_bytes)} free")


def gigabytes(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"  # noqa: PLR2004 - from here on GB has two digits
