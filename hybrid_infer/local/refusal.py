"""A placement, or a refusal that says which single change would make the model fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hybrid_infer.errors import InsufficientMemoryError
from hybrid_infer.local.placement import (
    QUANTIZED_BYTES,
    Placement,
    Situation,
    find_place,
    needed_bytes,
    wishes,
)


def place(situation: Situation) -> Placement:
    """Decide where a model is loaded.

    Raises:
        ConfigError: the named dtype is one that this model must never be computed in.
        InsufficientMemoryError: it does not fit; the message says what is needed, what there is,
            and which settings would make it fit.
    """
    placement = find_place(situation)
    if placement is None:
        raise InsufficientMemoryError(_refusal(situation))
    return placement


def _refusal(situation: Situation) -> str:
    spec, memory, device = situation.spec, situation.memory, situation.hardware.device
    # The least that the weights need on the device that was chosen, unless they are made smaller.
    alone = [wish for wish in wishes(situation) if wish.devices == (device,)]
    wish = [w for w in alone if w.quantization not in QUANTIZED_BYTES][-1]
    needed, room = needed_bytes(situation.facts, wish), situation.room(wish.devices)
    bounds = [f"settings.memory.local_fraction={memory.local_fraction:g}"]
    if memory.budget_bytes is not None:
        bounds.append(f"settings.memory.budget_bytes={memory.budget_bytes}")
    if situation.claims:
        bounds.append(f"other local models loaded: {len(situation.claims)}")
    instead = "a smaller file, or " if spec.gguf is not None else ""
    fixes = list(_fixes(situation, needed)) or [
        f"it needs {instead}a machine with more free memory"
    ]
    return (
        f"{spec.name} in {wish.dtype} needs about {_size(needed)} on {device}, and "
        f"{_size(room)} may be used ({', '.join(bounds)}); {'; or '.join(fixes)}"
    )


def _size(num_bytes: float) -> str:
    gigabytes = num_bytes / 1e9
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.1f} MB"


def _fixes(situation: Situation, needed: int) -> Iterator[str]:
    """Every single change with which the model would fit."""
    memory, hardware = situation.memory, situation.hardware
    if situation.claims and find_place(replace(situation, claims=())):
        yield "unload the other models"
    if find_place(replace(situation, memory=replace(memory, budget_bytes=None))):
        claimed = sum(claim.bytes for claim in situation.claims)
        yield f"raise settings.memory.budget_bytes to {needed + claimed}"
    if find_place(replace(situation, memory=replace(memory, local_fraction=1.0))):
        yield "set settings.memory.local_fraction to 1.0"
    can_be_halved = "bfloat16" not in situation.spec.forbidden_dtypes
    if can_be_halved and find_place(replace(situation, dtype="bfloat16")):
        yield "pass dtype='bfloat16', which needs half"
    yield from _quantized(situation)
    can_spread = situation.spec.gguf is None
    if can_spread and hardware.device.startswith("cuda") and not hardware.others:
        yield "pass device='auto', which may use other GPUs and the CPU as well"


def _quantized(situation: Situation) -> Iterator[str]:
    spec = situation.spec
    allowing = replace(situation, spec=replace(spec, allow_quantized=True), has_torchao=True)
    placement = find_place(allowing)
    if placement is None or placement.quantization is None:
        return
    steps = []
    if not spec.allow_quantized:
        key = f"{spec.task}.{spec.alias}" if spec.alias else f"an alias of {spec.repo}"
        steps.append(f"set allow_quantized: true for {key} in models.yaml")
    if not situation.has_torchao:
        steps.append('run: pip install "hybrid-infer[quant]"')
    yield f"{' and '.join(steps)} ({placement.quantization} weights would fit)"
