"""How callers wait for a future of a compute thread: blocking or awaiting, never past the deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

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
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        """Wake the task at the deadline, wherever progress has moved it by then."""
        nonlocal timer
        if deadline.expired():
            _wake(woken)
        else:
            timer = loop.call_later(deadline.left(), look)

    look()
    mailbox = _mailbox(loop)
    future.add_done_callback(lambda _: mailbox.post(woken))
    try:
        await woken
        if not future.done():
            raise too_late(deadline)  # noqa: TRY301 - abandoned below like any other end
        return future.result()
    except CancelledError:
        raise too_late(deadline) from None
    except BaseException:
        abandon()
        raise
    finally:
        if timer is not None:
            timer.cancel()


class _Mailbox:
    """Wakes the tasks of one event loop; those whose work ends together are woken together.

    Each wake-up of a loop is a call of the kernel, in which the thread that computes gives the
    interpreter away, and gets it back only once the loop has nothing to do. So a batch wakes it once.
    """

    def __init__(self) -> None:
        # Weak, so that a loop that is closed before it is woken is not kept.
        self._ended: deque[ref[asyncio.Future[None]]] = deque()
        self._is_called = False

    def post(self, woken: asyncio.Future[None]) -> None:
        """Have a task woken; from any thread."""
        self._ended.append(ref(woken))
        if self._is_called:
            return
        self._is_called = True
        try:
            woken.get_loop().call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop has been closed: nobody waits any more

    def _deliver(self) -> None:
        self._is_called = False  # first, so that whatever is posted from here on calls again
        while self._ended:
            woken = self._ended.popleft()()
            if woken is not None:
                _wake(woken)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()


def _mailbox(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    """The mailbox of the running loop, which is the only one to ask for it."""
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = _Mailbox()
    return found


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def too_late(deadline: Deadline) -> DeadlineExceededError:
    """The error of local work that did not finish in time."""
    return DeadlineExceededError(f"local work did not finish within {deadline.asked_seconds:g} s")
