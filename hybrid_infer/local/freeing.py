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
    _collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    _trim()()


def _collect() -> None:
    """Collect cycles, for an engine's threads and queues know each other.

    An application may have frozen it among all that it had loaded, so that the collector passes it by (``gc.freeze``).
    """
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        gc.unfreeze()
    gc.collect()
    if is_frozen:
        gc.freeze()


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
