"""The facts of machines that are not here, through torch's own functions."""

import pytest
import torch

from hybrid_infer.errors import ConfigError
from hybrid_infer.local.hardware import available_memory, hardware

GB = 10**9


@pytest.fixture
def two_gpus(monkeypatch):
    """The second has more free memory; torch holds 1 GB of the first for later."""
    free, reserved = {"cuda:0": 6 * GB, "cuda:1": 20 * GB}, {"cuda:0": 3 * GB, "cuda:1": 0}
    allocated = {"cuda:0": 2 * GB, "cuda:1": 0}
    for name, fake in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "is_bf16_supported": lambda including_emulation: including_emulation,
        "mem_get_info": lambda device: (free[str(device)], 24 * GB),
        "memory_reserved": reserved.get,
        "memory_allocated": allocated.get,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_the_gpu_with_most_free_memory_comes_first_and_the_cpu_last(two_gpus, asked):
    found = hardware(asked)
    assert (found.device, found.available_bytes) == ("cuda:1", 20 * GB)
    assert not found.has_native_bfloat16
    (other, other_free), (last, last_free) = found.others
    assert (other, other_free) == ("cuda:0", 7 * GB)
    assert last == "cpu"
    assert abs(last_free - available_memory()) < 4 * GB


def test_a_named_gpu_stands_alone(two_gpus):
    found = hardware("cuda:0")
    assert (found.device, found.available_bytes, found.others) == ("cuda:0", 7 * GB, ())
    with pytest.raises(ConfigError, match="torch sees 2"):
        hardware("cuda:2")


def test_the_cpu_stands_alone_too(two_gpus):
    assert hardware("cpu").others == ()
