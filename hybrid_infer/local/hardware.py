"""What this machine has: devices, native dtypes, free memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hybrid_infer.errors import ConfigError

_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What placement decides on.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        has_native_bfloat16: whether the device multiplies bfloat16 in hardware.
        available_bytes: memory that is free for weights on the device.
    """

    device: str
    has_native_bfloat16: bool
    available_bytes: int


def hardware(device: str) -> Hardware:
    """The facts of a device. Imports torch.

    Raises:
        ConfigError: the device was named and is not here.
    """
    chosen = _checked(device)
    if chosen.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(torch.device(chosen))
        return Hardware(chosen, torch.cuda.is_bf16_supported(including_emulation=False), free)
    return Hardware(chosen, chosen == "cpu" and cpu_has_bfloat16(), available_memory())


def _checked(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"device={device!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices"
            )
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device='mps' is not here: torch sees no Apple GPU")
    return device


@cache
def cpu_flags() -> frozenset[str]:
    """What the kernel says that this CPU can do; empty where it does not say so in Linux's way."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(text.split())


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 products (AVX512-BF16, AMX, or ARM's BF16)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def available_memory() -> int:
    """Bytes that this process may still use, its control group's limit included."""
    import psutil

    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file in _CGROUP_LIMITS:
        try:
            limit = int(Path(limit_file).read_text(encoding="ascii"))
            usage = int(Path(usage_file).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        available = min(available, max(0, limit - usage))
    return available
