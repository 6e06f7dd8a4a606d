"""Compiled C: kernels for processors with AMX tiles, and a tokenizer for any processor.

All of it is optional: torch and the Rust tokenizer work wherever it is missing. It is compiled when the package is installed, if a C compiler is there (``scripts/build_native.py``).
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hybrid_infer.local.hardware import cpu_flags

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "_kernels.so"
SOURCES = ("decoder.c", "encoder.c", "processor.c")
logger = logging.getLogger("hybrid_infer")
NEEDED_FLAGS = frozenset(
    {"amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
)


def is_stale(compiled: ctypes.CDLL, sources: Sequence[str]) -> bool:
    """Whether a library's sources lie beside it, and it was compiled from others; says so then.

    Args:
        compiled: the library.
        sources: the names of those that are compiled into it; the headers belong to every library.
    """
    files = [FOLDER / name for name in sources] + list(FOLDER.glob("*.h"))
    if not all(file.exists() for file in files):
        return False
    content = b"".join(file.read_bytes() for file in sorted(files))
    try:
        compiled_sources = compiled.compiled_sources
    except AttributeError:
        is_current = False
    else:
        compiled_sources.restype = ctypes.c_char_p
        is_current = compiled_sources() == hashlib.sha256(content).hexdigest().encode()
    if not is_current:
        logger.warning("compiled code is older than its sources and is not used; install again")
    return not is_current


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
    if is_stale(kernels, SOURCES):
        return None
    return kernels if kernels.request_tiles() == 0 else None
