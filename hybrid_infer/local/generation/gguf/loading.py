"""From a GGUF file to an engine: where it is computed, and how many tokens of answers fit."""

from __future__ import annotations

from pathlib import Path

import torch

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.errors import ConfigError, InsufficientMemoryError
from hybrid_infer.local.generation.engine import ChatEngine
from hybrid_infer.local.generation.gguf.decoder import BATCH_TOKENS, GgufDecoder
from hybrid_infer.local.generation.gguf.library import ALL_LAYERS, GgufModel, offloads
from hybrid_infer.local.generation.gguf.tokenizer import GgufTokenizer
from hybrid_infer.local.generation.prompting import Prompter
from hybrid_infer.local.generation.scheduling import Limits, extent
from hybrid_infer.local.hardware import Hardware, hardware
from hybrid_infer.local.placement import OVERHEAD, Placement
from hybrid_infer.snapshots.facts import SnapshotFacts

# All else is multiplied with float32 activations.
_STORED_DTYPES = {"F16": "float16", "BF16": "bfloat16"}
_UNKNOWN_WINDOW = 4096
_ROWS = 8  # with more, attention over the shared buffer costs more than a larger batch gains
_COPIES = 2  # while a cache grows, the old one stands beside the new one


def gguf_device(device: str) -> str:
    """Where a GGUF file is computed.

    Args:
        device: as the client names it.

    Raises:
        ConfigError: a GPU was named, and this build of llama.cpp has none.
    """
    if device in ("auto", "cpu"):
        return "cuda" if device == "auto" and offloads() else "cpu"
    if not offloads():
        raise ConfigError(
            f"device={device!r}: this build of llama-cpp-python computes on the CPU alone; "
            "build it for the GPU (CMAKE_ARGS=-DGGML_CUDA=on), or use device='cpu'"
        )
    return device


def place_gguf(
    spec: ModelSpec, facts: SnapshotFacts, machine: Hardware, *, fraction: float
) -> Placement:
    """Decide whether a GGUF file may be loaded; its dtype is the one that it is stored in. Pure.

    Args:
        spec: the model.
        facts: what the file's header says.
        machine: the device that was chosen.
        fraction: share of the free memory that weights may take.

    Raises:
        ConfigError: the file's dtype is one that this model must never be computed in.
        InsufficientMemoryError: it does not fit.
    """
    dtype = _STORED_DTYPES.get(facts.weight_dtype, "float32")
    if dtype in spec.forbidden_dtypes:
        raise ConfigError(f"{spec.name} must not be computed in {dtype}: its values overflow")
    needed, allowed = facts.weight_bytes * OVERHEAD, machine.available_bytes * fraction
    if needed > allowed:
        raise InsufficientMemoryError(
            f"the GGUF file of {spec.name} needs about {needed / 1e9:.1f} GB on {machine.device} "
            f"and {allowed / 1e9:.1f} GB may be used (settings.memory.local_fraction={fraction:g})"
            "; a file with smaller weights would need less"
        )
    return Placement(machine.device, dtype)


def cache_tokens(free_bytes: float, bytes_per_token: int | None, window: int) -> int:
    """Tokens that the answers under way may hold together: what fits, but one whole window. Pure."""
    if not bytes_per_token:
        return extent(window)
    return max(extent(window), int(free_bytes / (_COPIES * bytes_per_token)))


def load_gguf_engine(
    path: Path,
    facts: SnapshotFacts,
    spec: ModelSpec,
    provenance: Provenance,
    placement: Placement,
    *,
    fraction: float,
) -> ChatEngine:
    """Load a GGUF file.

    Args:
        path: the file.
        facts: what its header says.
        spec: the model.
        provenance: what to say of the weights.
        placement: where it goes.
        fraction: share of the free memory that may be taken.

    Raises:
        ModelIntegrityError: llama.cpp cannot load it, or it has no chat template.
    """
    model = GgufModel(path, ALL_LAYERS if placement.device != "cpu" else 0)
    window = spec.context_length or facts.context_length or _UNKNOWN_WINDOW
    tokenizer = GgufTokenizer(model, window)
    free = hardware(placement.device).available_bytes * fraction
    return ChatEngine(
        GgufDecoder(model, torch.get_num_threads()),
        Prompter(path, window, tokenizer),
        tokenizer.ends,
        provenance,
        limits=Limits(
            rows=_ROWS,
            cache_tokens=cache_tokens(free, facts.cache_bytes_per_token, window),
            prefill_tokens=BATCH_TOKENS,
        ),
    )
