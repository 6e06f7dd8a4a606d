"""How callers wait for a future of a compute thread: blocking or awaiting, never past the deadline."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, TypeVar

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import DeadlineExceededError

LONGEST_TIMER_SECONDS = 3600.0  # not every loop can count further

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
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    alarm = _Alarm(loop, deadline, woken)
    future.add_done_callback(partial(_inbox(loop).put, woken))
    try:
        await woken
        if not future.done():
            raise too_late(deadline)  # noqa: TRY301 - abandoned below like any other end
        return future.result()
    except CancelledError:
        raise asyncio.CancelledError from None  # the work itself was given up
    except BaseException:
        abandon()
        raise
    finally:
        alarm.stop()


class _Alarm:
    """Wakes who waits when a deadline runs out, however often it has been moved on by then."""

    __slots__ = ("_deadline", "_loop", "_timer", "_woken")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deadline: Deadline, woken: asyncio.Future[None]
    ) -> None:
        self._loop, self._deadline, self._woken = loop, deadline, woken
        self._set()

    def _set(self) -> None:
        self._timer = self._loop.call_later(
            min(self._deadline.left(), LONGEST_TIMER_SECONDS), self._ring
        )

    def _ring(self) -> None:
        if not self._deadline.expired():
            self._set()
        elif not self._woken.done():
            self._woken.set_result(None)

    def stop(self) -> None:
        """Nobody waits any more."""
        self._timer.cancel()


class _Inbox:
    """What ends on compute threads, on its way to an event loop: a whole batch wakes the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._ended: list[asyncio.Future[None]] = []

    def put(self, woken: asyncio.Future[None], _: Future[Any]) -> None:
        """Have `woken` woken, from any thread."""
        with self._lock:
            self._ended.append(woken)
            if len(self._ended) > 1:  # the loop is to look anyway
                return
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # closed under a task that was never ended
            with self._lock:
                self._ended.clear()  # each knows the loop, which would never be forgotten

    def _wake(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        for woken in ended:
            if not woken.done():
                woken.set_result(None)


_inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Inbox] = weakref.WeakKeyDictionary()


def _inbox(loop: asyncio.AbstractEventLoop) -> _Inbox:
    inbox = _inboxes.get(loop)
    if inbox is None:  # only its own thread asks
        inbox = _inboxes[loop] = _Inbox(loop)
    return inbox


def too_late(deadline: Deadline) -> DeadlineExceededError:
    """The error of local work that did not finish in time."""
    return DeadlineExceededError(f"local work did not finish within {deadline.asked_seconds:g} s")
