"""Which model a command's name means: no task is implied, but files that are here may tell."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.registry.names import TASKS
from hybrid_infer.snapshots.resolve import snapshot_folder

if TYPE_CHECKING:
    from hybrid_infer.registry import Registry


def resolved_by_files(registry: Registry, name: str) -> ModelSpec:
    """The model that `name` means; of a Hub id that no alias names, its snapshot tells the task.

    Args:
        registry: the client's.
        name: an alias, with its task where two tasks have it, or a Hub id.

    Raises:
        InvalidRequestError: see `Registry.resolve_named`.
    """
    spec = registry.resolve_named(name)
    if spec.alias is None and spec.task == "chat" and not _has_task(name) and _embeds(spec):
        return registry.resolve_named(name, "embeddings")
    return spec


def resolved_for_each_task(registry: Registry, name: str) -> list[ModelSpec]:
    """Every model that calls of either task mean by `name`: a Hub id may have served both.

    Raises:
        InvalidRequestError: see `Registry.resolve_named`.
    """
    specs = [registry.resolve_named(name)]
    if "/" in name and not _has_task(name):
        for task in TASKS:
            with suppress(InvalidRequestError):  # the tiny profile has its twin for one task
                specs.append(registry.resolve(task, name))
    return list(dict.fromkeys(specs))


def _has_task(name: str) -> bool:
    return name.partition("/")[0] in TASKS


def _embeds(spec: ModelSpec) -> bool:
    """Whether its snapshot, if it is here, is an embedding model's."""
    folder = snapshot_folder(spec)
    return folder is not None and (folder / "modules.json").is_file()
