"""Where a model goes, in which dtype, and how much room is left for conversations. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.local.generation.scheduling import Limits, extent
from hybrid_infer.local.hardware import Hardware
from hybrid_infer.settings import MemorySettings
from hybrid_infer.snapshots.facts import SnapshotFacts
from hybrid_infer.snapshots.sizes import STORED_BYTES

OVERHEAD = 1.2  # buffers, activations and the loader's own copies, as a share of the weights
LEAST_CACHE_TOKENS = 2048  # a copy that cannot hold this much of a conversation is of no use
# Rows come in powers of two. What stands beside a tensor of them while it grows, its old self, is for
# a moment and left to OVERHEAD.
CACHE_SLACK = 2
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of one weight of a layer in torchao's weight-only schemes, scales included, as measured: one
# scale for each row, or one and a zero point for each 64 weights.
QUANTIZED_BYTES = {"int8": 1.01, "int4": 0.63}
# What llama.cpp computes the weights of a GGUF file in; all else is multiplied in float32.
_GGUF_DTYPES = {"F16": "float16", "BF16": "bfloat16"}
_GGUF_CACHE_DTYPE = "float16"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one loaded model may come to hold.

    Attributes:
        bytes: all of it.
        allocated_bytes: the part that it has taken already; the free memory is without it.
        devices: where.
    """

    bytes: int
    allocated_bytes: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model is loaded; devices and dtypes by the names torch gives them.

    Attributes:
        device: where it computes.
        dtype: in which dtype.
        quantization: how its weights are made smaller: ``int8`` or ``int4``, or as ggml names it;
            None: they are not.
        spread: devices that share its weights, in order, with the bytes that each may take;
            empty: all are on `device`.
        weight_bytes: its weights, without any overhead.
        cache_tokens: tokens that its conversations may hold together; None where that is unknown.
        cache_bytes: what the cache may take for them.
    """

    device: str
    dtype: str
    quantization: str | None = None
    spread: tuple[tuple[str, int], ...] = ()
    weight_bytes: int = 0
    cache_tokens: int | None = None
    cache_bytes: int = 0

    @property
    def claim(self) -> Claim:
        """What it may come to hold once it is loaded, and its weights have been taken."""
        devices = tuple(name for name, _ in self.spread) or (self.device,)
        whole = int(self.weight_bytes * OVERHEAD) + self.cache_bytes
        return Claim(whole, self.weight_bytes, devices)

    @property
    def is_offloaded(self) -> bool:
        """Whether a GPU must fetch a part of the weights from the CPU's memory at each step."""
        return any(name == "cpu" for name, _ in self.spread)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is asked for, and what there is.

    Attributes:
        spec: the model.
        facts: what its snapshot says.
        hardware: the device that was chosen, and where a model may spill over to.
        dtype: ``auto`` or a dtype's name.
        memory: how much may be used.
        claims: what other models hold or will.
        gone: claims of models that are taken for unloaded, though their memory is not free yet.
        has_torchao: whether weights can be quantised here.
    """

    spec: ModelSpec
    facts: SnapshotFacts
    hardware: Hardware
    dtype: str = "auto"
    memory: MemorySettings = field(default_factory=MemorySettings)
    claims: tuple[Claim, ...] = ()
    gone: tuple[Claim, ...] = ()
    has_torchao: bool = False

    def room_on(self, device: str) -> int:
        """Bytes that one more model may take of a device's memory."""
        free = {self.hardware.device: self.hardware.available_bytes, **dict(self.hardware.others)}
        freed = sum(c.allocated_bytes // len(c.devices) for c in self.gone if device in c.devices)
        promised = sum(c.bytes - c.allocated_bytes for c in self.claims if device in c.devices)
        return max(0, int((free[device] + freed) * self.memory.local_fraction) - promised)

    def room(self, devices: Sequence[str]) -> int:
        """Bytes that one more model may take of several devices, and of the budget of all models."""
        free = sum(map(self.room_on, devices))
        if self.memory.budget_bytes is None:
            return free
        return max(0, min(free, self.memory.budget_bytes - sum(c.bytes for c in self.claims)))


@dataclass(frozen=True, slots=True)
class Wish:
    """One way to load a model: a dtype, a scheme, and the devices that share it.

    Attributes:
        dtype: what its weights are computed in.
        quantization: how they are made smaller, or None.
        devices: in order; the first computes.
        cache_dtype: what keys and values are kept in; None: as `dtype`.
    """

    dtype: str
    quantization: str | None
    devices: tuple[str, ...]
    cache_dtype: str | None = None


def find_place(situation: Situation) -> Placement | None:
    """Where a model is loaded, or None if it fits nowhere.

    Raises:
        ConfigError: the named dtype is one that this model must never be computed in.
    """
    placements = (_placed(situation, wish) for wish in wishes(situation))
    return next((placement for placement in placements if placement is not None), None)


def wishes(situation: Situation) -> Iterator[Wish]:
    """The ways to load a model that are allowed, the best one first.

    The original weights on one device; spread over several GPUs; a quantised copy on one device,
    where the alias allows it; spread over GPUs and the CPU, from which they are fetched step by step.
    A GGUF file stays as it is, on one device, whatever dtype is named.

    Raises:
        ConfigError: the dtype is one that this model must never be computed in.
    """
    spec, hardware = situation.spec, situation.hardware
    if spec.gguf is not None:
        yield _gguf_wish(situation)
        return
    dtypes = _dtypes(spec, hardware, situation.dtype)
    others = tuple(name for name, _ in hardware.others)
    gpus = (hardware.device, *(name for name in others if name != "cpu"))
    for dtype in dtypes:
        yield Wish(dtype, None, (hardware.device,))
    if spec.task != "chat":  # packed encoders live on one device, and vectors suffer from int8
        yield from (Wish(dtype, None, (other,)) for other in others for dtype in dtypes)
        return
    if len(gpus) > 1:
        yield from (Wish(dtype, None, gpus) for dtype in dtypes)
    if spec.allow_quantized and situation.has_torchao:
        yield from (Wish(dtypes[-1], scheme, (hardware.device,)) for scheme in QUANTIZED_BYTES)
    if "cpu" in others:
        yield from (Wish(dtype, None, (*gpus, "cpu")) for dtype in dtypes)


def _gguf_wish(situation: Situation) -> Wish:
    spec, facts = situation.spec, situation.facts
    dtype = _GGUF_DTYPES.get(facts.weight_dtype, "float32")
    if dtype in spec.forbidden_dtypes:
        raise ConfigError(f"{spec.name} must not be computed in {dtype}: its values overflow")
    return Wish(dtype, facts.quantization, (situation.hardware.device,), _GGUF_CACHE_DTYPE)


def _dtypes(spec: ModelSpec, hardware: Hardware, dtype: str) -> list[str]:
    """The dtypes to try: what the device computes natively, then what takes half the memory."""
    if dtype in spec.forbidden_dtypes:
        raise ConfigError(f"{spec.name} must not be computed in {dtype}: its values overflow")
    if dtype != "auto":
        return [dtype]
    if "bfloat16" in spec.forbidden_dtypes:
        return ["float32"]
    return ["bfloat16"] if hardware.has_native_bfloat16 else ["float32", "bfloat16"]


def needed_bytes(facts: SnapshotFacts, wish: Wish) -> int:
    """Memory without which there is no point in loading: weights, overhead, and some cache."""
    tokens = min(LEAST_CACHE_TOKENS, _window_tokens(facts))
    # Layers are not split, and accelerate keeps room for one on the first device: of each device
    # but the last, less than a layer stays unused, and of the first another one.
    unused = len(wish.devices) * facts.sizes.block_values * VALUE_BYTES[wish.dtype]
    if len(wish.devices) == 1:
        unused = 0
    weights = _weight_bytes(facts, wish) + unused
    return int(weights * OVERHEAD) + tokens * _cache_bytes_per_token(facts, wish)


def _weight_bytes(facts: SnapshotFacts, wish: Wish) -> int:
    values = facts.weight_bytes / STORED_BYTES.get(facts.weight_dtype, 4)
    if wish.quantization not in QUANTIZED_BYTES:  # a GGUF file's own is no smaller than on disk
        return int(values * VALUE_BYTES[wish.dtype])
    small = min(values, facts.sizes.layer_values)
    return int(
        (values - small) * VALUE_BYTES[wish.dtype] + small * QUANTIZED_BYTES[wish.quantization]
    )


def _cache_bytes_per_token(facts: SnapshotFacts, wish: Wish) -> int:
    """What a token of a conversation costs; 0 for an embedding model, or where it is unknown."""
    if facts.context_length is None:
        return 0
    return (
        (facts.sizes.cache_values or 0) * VALUE_BYTES[wish.cache_dtype or wish.dtype] * CACHE_SLACK
    )


def _placed(situation: Situation, wish: Wish) -> Placement | None:
    facts, allowed = situation.facts, situation.room(wish.devices)
    if needed_bytes(facts, wish) > allowed:
        return None
    weights = _weight_bytes(facts, wish)
    placement = Placement(wish.devices[0], wish.dtype, wish.quantization, weight_bytes=weights)
    per_token = _cache_bytes_per_token(facts, wish)
    if per_token:
        left = (allowed - int(weights * OVERHEAD)) // per_token
        usual = Limits.on(wish.devices[0]).rows * LEAST_CACHE_TOKENS
        tokens = _cache_tokens(left, _window_tokens(facts), usual)
        placement = replace(placement, cache_tokens=tokens, cache_bytes=tokens * per_token)
    if len(wish.devices) == 1:
        return placement
    rooms = [situation.room_on(device) for device in wish.devices]
    for_weights = (allowed - placement.cache_bytes) / OVERHEAD / sum(rooms)
    spread = tuple(
        (device, int(for_weights * room)) for device, room in zip(wish.devices, rooms, strict=True)
    )
    return replace(placement, spread=spread)


def _window_tokens(facts: SnapshotFacts) -> int:
    """What the longest conversation takes of a cache; 0 for an embedding model."""
    return extent(facts.context_length) if facts.context_length else 0


def _cache_tokens(left: int, window: int, usual: int) -> int:
    """Tokens that conversations may hold of the `left` that there is memory for.

    One whole window if there is room for it. Beyond that at most half, so that another model finds
    a place, and no more than as many conversations as are computed together take as a rule.
    """
    return max(min(window, left), min(left // 2, usual))
