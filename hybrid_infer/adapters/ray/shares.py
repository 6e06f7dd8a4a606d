"""How much of a GPU an engine asks Ray for, and what that leaves it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelNotDownloadedError
from hybrid_infer.local.embedding.sizing import SHARE
from hybrid_infer.local.placement import needed_bytes, wishes
from hybrid_infer.registry import Registry, load_registry
from hybrid_infer.settings import Settings

# An embedding engine sizes its batches for a part of the free memory, so that many fit beside each
# other. A chat engine uses what there is for its conversations.
MOST_ENGINES = {"embeddings": SHARE, "chat": 1}


def gpus_for(needed: int, gpu_bytes: int, most_engines: int) -> float:
    """GPUs of one engine: one part in a whole number of a GPU, or whole ones.

    Args:
        needed: bytes without which the model cannot be loaded.
        gpu_bytes: memory of one GPU.
        most_engines: engines that may share one.
    """
    if needed > gpu_bytes:
        return float(math.ceil(needed / gpu_bytes))
    return 1 / min(gpu_bytes // max(needed, 1), most_engines)


def gpus_of(spec: ModelSpec, device: str, dtype: str, settings: Settings) -> float:
    """GPUs of one replica, by placement on the machine that asks; 0: it computes on the CPU.

    A machine that has no GPU, or not the model's files, cannot tell: it asks for a whole GPU where
    `device` names one.

    Args:
        spec: what the replica loads.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto`` or a dtype's name.
        settings: of the replica.

    Raises:
        ConfigError: the model must never be computed in the dtype.
        ModelIntegrityError: its files here are damaged.
    """
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return 0.0
    if not torch.cuda.is_available():
        return 1.0

    from hybrid_infer.local.copies import find_copy
    from hybrid_infer.local.loading import situation_of

    try:
        _, facts = find_copy(spec)
    except ModelNotDownloadedError:
        return 1.0
    situation = situation_of(spec, facts, device="cuda", dtype=dtype, settings=settings)
    needed = needed_bytes(facts, next(wishes(situation)))
    return gpus_for(needed, _gpu_bytes(), MOST_ENGINES[spec.task])


def on_this_worker(client_arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a client that takes no more of its GPU than Ray has given this process.

    Args:
        client_arguments: of a client; ``settings`` is set here where a GPU is shared.

    Raises:
        ConfigError: models.yaml is wrong.
    """
    import torch

    if not torch.cuda.is_available():
        return dict(client_arguments)
    assigned = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    settings = registry_of(client_arguments).settings
    return {
        **client_arguments,
        "settings": within_share(settings, assigned.get("GPU", 0.0), _gpu_bytes()),
    }


def registry_of(client_arguments: Mapping[str, Any]) -> Registry:
    """The registry of a client.

    Raises:
        ConfigError: models.yaml is wrong.
    """
    return load_registry(client_arguments.get("models"), profile=client_arguments.get("profile"))


def _gpu_bytes() -> int:
    """Memory of the first GPU that this process sees."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def within_share(settings: Settings, gpus: float, gpu_bytes: int) -> Settings:
    """`settings` for an engine that has `gpus`: of a GPU that it shares, it takes its share.

    Free memory alone would not do: two engines that load at the same time both see all of it.
    """
    if not 0 < gpus < 1 or settings.memory.budget_bytes is not None:
        return settings
    budget = int(gpus * gpu_bytes)
    return replace(settings, memory=replace(settings.memory, budget_bytes=budget))
