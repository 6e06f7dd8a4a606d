"""How callers wait for a future of a compute thread: blocking or awaiting, never past the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import TypeVar

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import DeadlineExceededError

_ResultT = TypeVar("_ResultT")


def wait(future: Future[_ResultT], deadline: Deadline, abandon: Callable[[], object]) -> _ResultT:
    """The future's result, on the calling thread.

    Raises:
        DeadlineExceededError: the deadline ran out first, or the attempt was given up; `abandon`
            was called.
    """
    deadline.on_cancel(abandon)
    try:
        while True:
            try:
                return future.result(timeout=deadline.left())
            except CancelledError:
                raise too_late(deadline) from None
            except FutureTimeoutError:
                if future.done():  # done in this very moment, or failed with a timeout of its own
                    return future.result()
                if deadline.expired():  # else progress has moved the deadline on
                    raise too_late(deadline) from None
    except BaseException:
        abandon()
        raise


async def wait_async(
    future: Future[_ResultT], deadline: Deadline, abandon: Callable[[], object]
) -> _ResultT:
    """The future's result, on the running event loop; a cancelled task abandons the work."""
    awaited = asyncio.wrap_future(future)
    try:
        while True:
            await asyncio.wait([awaited], timeout=deadline.left())
            if awaited.done():
                return awaited.result()
            if deadline.expired():
                raise too_late(deadline)  # noqa: TRY301 - abandoned below like any other end
    except BaseException:
        abandon()
        with suppress(RuntimeError):  # the loop has been closed under a task that was never ended
            awaited.cancel()  # else asyncio would report an error that nobody is left to see
        raise


def too_late(deadline: Deadline) -> DeadlineExceededError:
    """The error of local work that did not finish in time."""
    return DeadlineExceededError(f"local work did not finish within {deadline.asked_seconds:g} s")
