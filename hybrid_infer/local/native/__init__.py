"""Kernels in C for processors with AMX tiles. They are optional: torch computes wherever they are missing.

They are compiled when the package is installed, if a C compiler is there (``scripts/build_native.py``).
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from functools import cache
from pathlib import Path

from hybrid_infer.local.hardware import cpu_flags

LIBRARY = Path(__file__).with_name("_kernels.so")
TOKENIZER_SOURCE = "wordpiece.c"  # of the other library
logger = logging.getLogger("hybrid_infer")
NEEDED_FLAGS = frozenset(
    {"amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
)


def is_stale(kernels: ctypes.CDLL) -> bool:
    """Whether sources lie beside the library, and it was compiled from others."""
    sources = [file for file in LIBRARY.parent.glob("*.[ch]") if file.name != TOKENIZER_SOURCE]
    if not sources:
        return False
    try:
        compiled_sources = kernels.compiled_sources
    except AttributeError:
        return True
    compiled_sources.restype = ctypes.c_char_p
    content = b"".join(file.read_bytes() for file in sorted(sources))
    return bool(compiled_sources() != hashlib.sha256(content).hexdigest().encode())


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None if they were not built, or this machine cannot run them."""
    if not cpu_flags() >= NEEDED_FLAGS:
        return None
    import torch  # noqa: F401 - its OpenMP, in its global namespace, is the one that the kernels use

    try:
        kernels = ctypes.CDLL(str(LIBRARY))
    except OSError:  # not built, or built for another system, or no OpenMP to be found
        return None
    if is_stale(kernels):
        logger.warning("the kernels are older than their sources and are not used; install again")
        return None
    return kernels if kernels.request_tiles() == 0 else None
