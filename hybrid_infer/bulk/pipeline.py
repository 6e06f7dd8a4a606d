"""Reading, computing and writing at the same time, with two windows in memory and never three."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_WindowT = TypeVar("_WindowT")
_ResultT = TypeVar("_ResultT")


def run(
    windows: Iterator[_WindowT],
    compute: Callable[[_WindowT], _ResultT],
    write: Callable[[_ResultT], None],
) -> float:
    """Send each window through `compute` and `write`, in order.

    While one window is computed on the caller's thread, the last one is written on a second; only
    when that is done, the next is read, on a third. So a slow writer holds up reading, then
    computing, and memory stays bounded.

    Args:
        windows: makes a window when asked; called on one thread, one call at a time.
        compute: window to result.
        write: called on one thread, one call at a time.

    Returns:
        Seconds that were spent in `compute`.

    Raises:
        Exception: the first error of any of the three; what was being written is finished first.
    """
    compute_seconds = 0.0
    written: Future[None] | None = None
    with (
        ThreadPoolExecutor(1, "bulk-read") as reader,
        ThreadPoolExecutor(1, "bulk-write") as writer,
    ):

        def read(before: Future[None] | None) -> _WindowT | None:
            if before is not None:
                before.result()
            return next(windows, None)

        def put(result: _ResultT, before: Future[None] | None) -> None:
            if before is not None:
                before.result()  # after a window that could not be written, none may be
            write(result)

        following = reader.submit(read, None)
        while (window := following.result()) is not None:
            following = reader.submit(read, written)
            started_at = time.monotonic()
            result = compute(window)
            compute_seconds += time.monotonic() - started_at
            written = writer.submit(put, result, written)
            del window, result
        if written is not None:
            written.result()
    return compute_seconds
