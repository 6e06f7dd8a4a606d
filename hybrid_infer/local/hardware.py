"""What this machine has: devices, native dtypes, free memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hybrid_infer.errors import ConfigError
from hybrid_infer.local.cgroups import cgroup_headroom


@dataclass(frozen=True, slots=True)
class Hardware:
    """What placement decides on.

    Attributes:
        device: ``cpu``, ``cuda:N`` or ``mps``.
        has_native_bfloat16: whether the device multiplies bfloat16 in hardware.
        available_bytes: memory that is free on the device.
        others: further devices that a model may spill over to, each with its free bytes, the
            CPU last; empty where the user has named a single one.
    """

    device: str
    has_native_bfloat16: bool
    available_bytes: int
    others: tuple[tuple[str, int], ...] = ()


def hardware(device: str) -> Hardware:
    """The facts of a device. Imports torch.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` (the GPU with most free memory; a large model may spill
            over to other GPUs and the CPU), ``cuda:N`` (that one alone) or ``mps``.

    Raises:
        ConfigError: the device was named and is not here.
    """
    import torch

    chosen = _checked(device)
    if not chosen.startswith("cuda"):
        return Hardware(chosen, chosen == "cpu" and cpu_has_bfloat16(), available_memory())
    is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    if chosen != "cuda":
        return Hardware(chosen, is_native, _free(chosen))
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    free = sorted(((_free(gpu), gpu) for gpu in gpus), key=lambda pair: -pair[0])
    (most, first), *rest = free
    others = (*((gpu, left) for left, gpu in rest), ("cpu", available_memory()))
    return Hardware(first, is_native, most, others)


def _free(gpu: str) -> int:
    """Bytes that are free on a GPU, those that torch keeps there for later use included."""
    import torch

    free, _ = torch.cuda.mem_get_info(torch.device(gpu))
    return free + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)


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
    """Bytes that this process may still use, its control groups' limits included."""
    import psutil

    available = int(psutil.virtual_memory().available)
    headroom = cgroup_headroom()
    return available if headroom is None else min(available, headroom)
