"""The tiny profile: the same aliases on seeded models, and no way to mix them with real ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.urls import is_loopback

TINY_REVISION = "7e1d7e1d7e1d7e1d7e1d7e1d7e1d7e1d7e1d0001"
TINY_PREFIX = "tiny/"


def tiny_repo(repo: str) -> str:
    """The seeded twin of `repo`: ``tiny/`` and the last part of its name."""
    return TINY_PREFIX + repo.rpartition("/")[2]


def tiny_models(models: Iterable[ModelSpec], twins: Collection[str]) -> tuple[ModelSpec, ...]:
    """The twins of those `models` that have one; limits, dim and defaults stay.

    Args:
        models: the merged aliases.
        twins: the packaged repos, which are those that have a seeded twin.
    """
    return tuple(
        replace(spec, repo=tiny_repo(spec.repo), revision=TINY_REVISION, gguf=None, gated=False)
        for spec in models
        if spec.repo in twins
    )


def tiny_remotes(remotes: Iterable[RemoteSpec], twins: Collection[str]) -> tuple[RemoteSpec, ...]:
    """`remotes`, asking for the twins.

    Raises:
        ConfigError: one is not on this machine: it would serve real vectors beside seeded ones.
    """
    checked = []
    for remote in remotes:
        if not is_loopback(remote.base_url):
            raise ConfigError(
                f"the tiny profile accepts only remotes on this machine (127.0.0.1, localhost), "
                f"and '{remote.name}' ({remote.base_url}) is not: seeded and real answers must not "
                "mix; leave that remote out, or the profile"
            )
        served = remote.models and tuple(
            (tiny_repo(model) if model in twins else model, name) for model, name in remote.models
        )
        checked.append(replace(remote, models=served))
    return tuple(checked)
