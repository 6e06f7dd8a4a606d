"""How callers wait for a compute thread: blocking or awaiting, never past the deadline."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import DeadlineExceededError
from hybrid_infer.local.answer import Answer, ResultT

ItemT = TypeVar("ItemT")

# Between two looks at the deadlines of all tasks, however close the next of them is. A look takes 2 µs a
# task: so where thousands run out of time one by one, a tenth of the loop's time goes into it.
LOOK_SECONDS = 0.001
LOOK_SECONDS_PER_TASK = 20e-6


def wait(future: Answer[ResultT], deadline: Deadline) -> ResultT:
    """The future's result, on the calling thread.

    Raises:
        DeadlineExceededError: the deadline ran out first, or the attempt was given up; then the future
            is cancelled.
    """
    deadline.on_cancel(future.cancel)
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
        future.cancel()
        raise


async def wait_async(future: Answer[ResultT], deadline: Deadline) -> ResultT:
    """`wait`, on the running event loop; a cancelled task cancels the future."""
    mailbox, waiter, woken = _begun_wait(deadline)
    try:
        future.add_done_callback(waiter)
        await woken
        if not future.done():
            raise too_late(deadline)  # noqa: TRY301 - cancelled below, as at any other end
        return future.result()
    except CancelledError:
        raise too_late(deadline) from None
    except BaseException:
        future.cancel()
        raise
    finally:
        mailbox.forget(waiter)


class _Waiter:
    """A task that waits, and the callback by which its mailbox learns that its work has ended.

    Args:
        deadline: of the task.
        mailbox: of its loop; let go at the end, for a future may keep its callbacks.
        woken: what the task waits for; let go, too.
    """

    __slots__ = ("deadline", "mailbox", "woken")

    def __init__(self, deadline: Deadline, mailbox: _Mailbox, woken: asyncio.Future[None]) -> None:
        self.deadline = deadline
        self.mailbox: _Mailbox | None = mailbox
        self.woken: asyncio.Future[None] | None = woken

    def __call__(self, _: object) -> None:
        """The work has ended; called on any thread."""
        mailbox, self.mailbox = self.mailbox, None
        if mailbox is not None:
            mailbox.post(self)

    def wake(self) -> None:
        """Have the task go on; called on its loop. It may not wait any more."""
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class _Mailbox:
    """Wakes the tasks of one event loop; those whose work ends together are woken together.

    Each wake-up of a loop is a call of the kernel, in which the thread that computes gives the
    interpreter away, and gets it back only once the loop has nothing to do. So a batch wakes it once.
    All tasks share one timer, for the first deadline: a timer for each would cost more than all the
    rest of a wait.

    A loop knows its tasks weakly. What keeps a task that nobody else knows is the work that it waits
    for, through its waiter and this mailbox, and the timer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended: deque[_Waiter] = deque()
        self._is_called = False
        self._waiting: set[_Waiter] = set()
        self._due = math.inf  # when the timer ends, in the loop's time
        self._next_look = -math.inf  # at the earliest
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, waiter: _Waiter) -> None:
        """A task begins to wait; called on the loop."""
        self._waiting.add(waiter)
        self._look_after(waiter.deadline.left())

    def forget(self, waiter: _Waiter) -> None:
        """A task has ended its wait; called on the loop."""
        waiter.mailbox = waiter.woken = None
        self._waiting.remove(waiter)
        if not self._waiting:
            self._stop_timer()

    def post(self, waiter: _Waiter) -> None:
        """Have a task woken; from any thread."""
        self._ended.append(waiter)
        if self._is_called:
            return
        self._is_called = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop has been closed: nobody waits any more

    def _deliver(self) -> None:
        self._is_called = False  # first, so that whatever is posted from here on calls again
        while self._ended:
            self._ended.popleft().wake()

    def _look_after(self, seconds: float) -> None:
        due = max(self._loop.time() + seconds, self._next_look)
        if due < self._due:
            self._stop_timer()
            self._due = due
            self._timer = self._loop.call_at(due, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = math.inf, None

    def _look(self) -> None:
        """Wake the tasks whose deadline is over, wherever progress has moved it by then."""
        self._due, self._timer = math.inf, None
        seconds = math.inf
        for waiter in self._waiting:
            if waiter.deadline.expired():
                waiter.wake()
            else:
                seconds = min(seconds, waiter.deadline.left())
        pause = max(LOOK_SECONDS, LOOK_SECONDS_PER_TASK * len(self._waiting))
        self._next_look = self._loop.time() + pause
        self._look_after(seconds)


# By the loop's id, which no other loop has as long as its mailbox, which holds it, is there.
_mailboxes: WeakValueDictionary[int, _Mailbox] = WeakValueDictionary()


def _mailbox(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    """The mailbox of the running loop, which is the only one to ask for it."""
    found = _mailboxes.get(id(loop))
    if found is None:
        found = _mailboxes[id(loop)] = _Mailbox(loop)
    return found


def _begun_wait(deadline: Deadline) -> tuple[_Mailbox, _Waiter, asyncio.Future[None]]:
    """The running task begins to wait: for the future, which its waiter wakes; `forget` ends it."""
    loop = asyncio.get_running_loop()
    mailbox = _mailbox(loop)
    woken: asyncio.Future[None] = loop.create_future()
    waiter = _Waiter(deadline, mailbox, woken)
    mailbox.expect(waiter)
    return mailbox, waiter, woken


class Arrivals(Generic[ItemT]):
    """Items on their way from a compute thread to a task of any event loop, of one after another too.

    It knows a loop only while somebody waits there, so whatever comes between two waits is kept.
    """

    def __init__(self) -> None:
        self._items: deque[ItemT] = deque()
        self._waiters: dict[_Waiter, None] = {}

    def put(self, item: ItemT) -> None:
        """Hand over an item, from any thread."""
        self._items.append(item)  # first: who waits from here on looks for it
        for waiter in list(self._waiters):
            waiter(item)

    async def get(self, deadline: Deadline) -> ItemT:
        """The next item, on the running event loop; who is cancelled leaves it to the next call.

        Raises:
            DeadlineExceededError: the deadline ran out first.
        """
        while True:
            with suppress(IndexError):  # none, or another task took it
                return self._items.popleft()
            await self._wait(deadline)
            if not self._items and deadline.expired():  # else progress has moved the deadline on
                raise too_late(deadline)

    async def _wait(self, deadline: Deadline) -> None:
        """Wait for an item or the deadline, or for what another task took first."""
        mailbox, waiter, woken = _begun_wait(deadline)
        self._waiters[waiter] = None
        try:
            if not self._items:  # since it was put before anybody waited
                await woken
        finally:
            del self._waiters[waiter]
            mailbox.forget(waiter)


def too_late(deadline: Deadline) -> DeadlineExceededError:
    """The error of local work that did not finish in time."""
    return DeadlineExceededError(f"local work did not finish within {deadline.asked_seconds:g} s")
