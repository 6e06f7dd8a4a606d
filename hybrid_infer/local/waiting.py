"""How callers wait for a compute thread: blocking or awaiting, never past the deadline."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from weakref import WeakKeyDictionary, ref

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import DeadlineExceededError
from hybrid_infer.local.answer import Awaited, ResultT

LOOK_SECONDS = 0.001  # between two looks at the deadlines of all tasks


def wait(future: Awaited[ResultT], deadline: Deadline, abandon: Callable[[], object]) -> ResultT:
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
    future: Awaited[ResultT], deadline: Deadline, abandon: Callable[[], object]
) -> ResultT:
    """The future's result, on the running event loop; a cancelled task abandons the work."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    mailbox = _mailbox(loop)
    waiter = _Waiter(woken, deadline, mailbox)
    mailbox.expect(waiter, loop)
    future.add_done_callback(waiter)
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
        mailbox.forget(waiter)


class _Waiter:
    """A task that waits, and the callback by which it learns that its work has ended.

    Args:
        woken: what the task awaits; known weakly, so that a loop that is closed before is not kept.
        deadline: of the task.
        mailbox: of its loop.
    """

    __slots__ = ("_mailbox", "_woken", "deadline")

    def __init__(self, woken: asyncio.Future[None], deadline: Deadline, mailbox: _Mailbox) -> None:
        self._woken, self.deadline, self._mailbox = ref(woken), deadline, mailbox

    def __call__(self, _: object) -> None:
        """The work has ended; called on any thread."""
        self._mailbox.post(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the task, while that is there."""
        woken = self._woken()
        return None if woken is None else woken.get_loop()

    def wake(self) -> None:
        """Let the task go on; called on its loop."""
        woken = self._woken()
        if woken is not None and not woken.done():
            woken.set_result(None)


class _Mailbox:
    """Wakes the tasks of one event loop; those whose work ends together are woken together.

    Each wake-up of a loop is a call of the kernel, in which the thread that computes gives the
    interpreter away, and gets it back only once the loop has nothing to do. So a batch wakes it once.
    All tasks share one timer, for the first deadline: a timer for each would cost more than all the
    rest of a wait.
    """

    def __init__(self) -> None:
        self._ended: deque[_Waiter] = deque()
        self._is_called = False
        self._waiting: dict[_Waiter, None] = {}
        self._due = math.inf  # when the timer ends, in the loop's time
        self._timer: ref[asyncio.TimerHandle] | None = None  # weak: it knows the loop

    def expect(self, waiter: _Waiter, loop: asyncio.AbstractEventLoop) -> None:
        """A task begins to wait; called on the loop."""
        self._waiting[waiter] = None
        self._look_after(waiter.deadline.left(), loop)

    def forget(self, waiter: _Waiter) -> None:
        """A task has ended its wait; called on the loop."""
        del self._waiting[waiter]
        if not self._waiting:
            self._stop_timer()

    def post(self, waiter: _Waiter) -> None:
        """Have a task woken; from any thread."""
        self._ended.append(waiter)
        if self._is_called:
            return
        loop = waiter.loop
        if loop is None:
            return  # its task is gone; whoever is posted next takes it along
        self._is_called = True
        try:
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop has been closed: nobody waits any more

    def _deliver(self) -> None:
        self._is_called = False  # first, so that whatever is posted from here on calls again
        while self._ended:
            self._ended.popleft().wake()

    def _look_after(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + seconds
        if due < self._due:
            self._stop_timer()
            self._due = due
            self._timer = ref(loop.call_at(due, self._look))

    def _stop_timer(self) -> None:
        timer = None if self._timer is None else self._timer()
        if timer is not None:
            timer.cancel()
        self._due, self._timer = math.inf, None

    def _look(self) -> None:
        """Wake the tasks whose deadline is over, wherever progress has moved it by then."""
        self._due, seconds = math.inf, math.inf
        for waiter in self._waiting:
            if waiter.deadline.expired():
                waiter.wake()
            else:
                seconds = min(seconds, waiter.deadline.left())
        if seconds < math.inf:
            self._look_after(max(seconds, LOOK_SECONDS), asyncio.get_running_loop())


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()


def _mailbox(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    """The mailbox of the running loop, which is the only one to ask for it."""
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = _Mailbox()
    return found


def too_late(deadline: Deadline) -> DeadlineExceededError:
    """The error of local work that did not finish in time."""
    return DeadlineExceededError(f"local work did not finish within {deadline.asked_seconds:g} s")
