"""Giving memory back to the system: what Python, torch and the C library would keep for later."""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback
from collections.abc import Callable
from functools import cache


def free_memory() -> None:
    """Collect cycles, and give back what the allocators hold free."""
    gc.collect()  # of ours nothing is in one, but other libraries' modules may be
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    _trim()()


def forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a failed load hold: an error outlives its tensors."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@cache
def _trim() -> Callable[[], object]:
    """``malloc_trim`` of the GNU C library; elsewhere nothing."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return lambda: None
    return lambda: trim(0)
