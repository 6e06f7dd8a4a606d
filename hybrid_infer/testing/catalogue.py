"""The models that a fake remote knows by name: the packaged aliases and their seeded twins."""

from __future__ import annotations

import functools

from hybrid_infer.datatypes.models import ModelSpec, Task

# Repositories of one name differ in their organisation only, and a twin only in its prefix.
_TASK_PREFIXES = ("chat/", "embeddings/")


@functools.cache
def known_models() -> tuple[ModelSpec, ...]:
    """The packaged aliases, whatever the environment says; several may share a repository."""
    from hybrid_infer.registry import load_registry

    return load_registry(environ={}).models


def find_model(name: str, task: Task | None = None) -> ModelSpec | None:
    """The packaged model that `name` means.

    Args:
        name: a Hub id, its twin ``tiny/…``, or an alias (``small``, ``embeddings/small``); a
            provider after a colon, as Hugging Face's router has it, is left out.
        task: the task that is meant; None: that of the first match.
    """
    bare = name.partition(":")[0]
    short = bare
    for prefix in _TASK_PREFIXES:
        short = short.removeprefix(prefix)
    for spec in known_models():
        if task not in (None, spec.task):
            continue
        twin = f"tiny/{spec.repo.rpartition('/')[2]}"
        if bare in (spec.repo, twin, spec.name) or short == spec.alias:
            return spec
    return None


def is_twin(name: str) -> bool:
    """Whether `name` asks for a seeded model."""
    return name.startswith("tiny/")
