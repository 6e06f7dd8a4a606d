"""Where a model goes and in which dtype. Pure: facts in, a placement or a refusal out."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ConfigError, InsufficientMemoryError
from hybrid_infer.local.hardware import Hardware
from hybrid_infer.snapshots.facts import SnapshotFacts

OVERHEAD = 1.2  # buffers, activations and the loader's own copies, as a share of the weights
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a dtype, by the names torch gives them."""

    device: str
    dtype: str


def place(
    spec: ModelSpec, facts: SnapshotFacts, hardware: Hardware, *, dtype: str, fraction: float
) -> Placement:
    """Decide where `spec` is loaded.

    Args:
        spec: the model.
        facts: what its snapshot says.
        hardware: the device that was chosen.
        dtype: ``auto`` or a dtype's name.
        fraction: share of the free memory that weights may take.

    Raises:
        ConfigError: the named dtype is one that this model must never be computed in.
        InsufficientMemoryError: it does not fit; the message says what would make it fit.
    """
    chosen = _dtype(spec, hardware, dtype)
    needed = needed_bytes(facts, chosen)
    allowed = int(hardware.available_bytes * fraction)
    if needed > allowed:
        smaller = "" if chosen != "float32" else "; dtype='bfloat16' would need half"
        raise InsufficientMemoryError(
            f"{spec.name} in {chosen} needs about {needed / 1e9:.1f} GB on {hardware.device} and "
            f"{allowed / 1e9:.1f} GB may be used (settings.memory.local_fraction={fraction:g})"
            f"{smaller}"
        )
    return Placement(hardware.device, chosen)


def _dtype(spec: ModelSpec, hardware: Hardware, dtype: str) -> str:
    if dtype in spec.forbidden_dtypes:
        raise ConfigError(f"{spec.name} must not be computed in {dtype}: its values overflow")
    if dtype != "auto":
        return dtype
    if hardware.has_native_bfloat16 and "bfloat16" not in spec.forbidden_dtypes:
        return "bfloat16"
    return "float32"


def needed_bytes(facts: SnapshotFacts, dtype: str) -> int:
    """Memory for the weights in `dtype`, overhead included."""
    stored = _STORED_BYTES.get(facts.weight_dtype, 4)
    return int(facts.weight_bytes * _BYTES[dtype] / stored * OVERHEAD)
