"""Reading, computing and writing at the same time, with two windows in memory and never three."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
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
        Exception: the first error of any of the three; what was being written is finished first. What is
            being read is not waited for: standard input may have nothing to say for ever.
    """
    compute_seconds = 0.0
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, "bulk-write") as writer:

        def read(before: Future[None] | None) -> _WindowT | None:
            if before is not None:
                before.result()
            return next(windows, None)

        def put(result: _ResultT, before: Future[None] | None) -> None:
            if before is not None:
                before.result()  # after a window that could not be written, none may be
            write(result)

        following = _left_alone(partial(read, None))
        while (window := following.result()) is not None:
            following = _left_alone(partial(read, written))
            started_at = time.monotonic()
            result = compute(window)
            compute_seconds += time.monotonic() - started_at
            written = writer.submit(put, result, written)
            del window, result
        if written is not None:
            written.result()
    return compute_seconds


def _left_alone(do: Callable[[], _ResultT]) -> Future[_ResultT]:
    """Have it done on a thread that nobody waits for, the end of the interpreter neither."""
    future: Future[_ResultT] = Future()

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, name="bulk-read", daemon=True).start()
    return future
