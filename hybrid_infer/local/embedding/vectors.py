"""Memory for the rows of a reply."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

MAPPED_BYTES = 1 << 20


def new_vectors(count: int, width: int) -> NDArray[np.float32]:
    """A float32 array ``(count, width)``, whatever is in it.

    A large one has pages of its own, which go back to the system with it. glibc would take it from the
    arena of the thread that computes, and keep up to 64 MB at the end of each arena once they are free:
    ``malloc_trim`` reaches only the main one (malloc(3), ``M_MMAP_THRESHOLD`` and its dynamic growth).
    """
    size = count * width * np.dtype(np.float32).itemsize
    if size < MAPPED_BYTES:
        return np.empty((count, width), np.float32)
    # Private, so that a forked child does not write into its parent's; Windows knows no such choice.
    private = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}
    return np.frombuffer(mmap.mmap(-1, size, **private), np.float32).reshape(count, width)
