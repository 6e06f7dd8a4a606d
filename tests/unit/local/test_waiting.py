"""Waiting for a compute thread on an event loop: woken together, by the deadline, or not at all."""

import asyncio
import gc
import math
import threading
import weakref
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from anyio.lowlevel import checkpoint

from hybrid_infer import DeadlineExceededError
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.local.waiting import Arrivals, _Mailbox, _Waiter, wait_async

PATIENCE_SECONDS = 60.0


@pytest.fixture
def abandoned():
    return []


def noting(future, abandoned):
    """Has `abandoned` get the future in place of its end, if it is cancelled."""
    future.cancel = lambda: abandoned.append(future)
    return future


def waiting(future, deadline, abandoned):
    return asyncio.create_task(wait_async(noting(future, abandoned), deadline))


class Wanted(Future):
    """A future that tells when somebody waits for it."""

    def __init__(self):
        super().__init__()
        self.is_wanted = asyncio.Event()

    def add_done_callback(self, fn):
        super().add_done_callback(fn)
        self.is_wanted.set()


async def until_waited_for(futures):
    """The tasks have run, and each future knows who wants it."""
    for future in futures:
        await future.is_wanted.wait()


def test_those_that_end_together_are_woken_together(abandoned):
    async def run():
        loop = asyncio.get_running_loop()
        calls, original = [], loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *a, **k: (calls.append(a), original(*a, **k))[1]
        futures = [Wanted() for _ in range(50)]
        deadline = Deadline(PATIENCE_SECONDS)
        tasks = [waiting(future, deadline, abandoned) for future in futures]
        await until_waited_for(futures)

        def compute():
            for number, future in enumerate(futures):
                future.set_result(number)

        thread = threading.Thread(target=compute)
        thread.start()
        thread.join(PATIENCE_SECONDS)  # the loop stands still meanwhile, and is not woken again
        assert await asyncio.gather(*tasks) == list(range(50))
        return len(calls)

    assert asyncio.run(run()) == 1
    assert abandoned == []


def test_what_is_done_already_costs_no_wait(abandoned):
    async def run():
        future = Wanted()
        future.set_result(1)
        return await wait_async(noting(future, abandoned), Deadline(0.0))

    assert asyncio.run(run()) == 1
    assert abandoned == []


def test_an_error_is_the_caller_s(abandoned):
    async def run():
        future = Wanted()
        task = waiting(future, Deadline(PATIENCE_SECONDS), abandoned)
        await until_waited_for([future])
        future.set_exception(ValueError("broken"))
        await task

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())


class Counted(Deadline):
    """Looked at, it has moved on; at the third look it is over."""

    looks = 0

    def expired(self):
        self.looks += 1
        return self.looks >= 3

    def left(self):
        return 0.001


def test_the_deadline_ends_it_and_progress_moves_the_deadline(abandoned):
    future, deadline = Wanted(), Counted(PATIENCE_SECONDS)
    with pytest.raises(DeadlineExceededError):
        asyncio.run(wait_async(noting(future, abandoned), deadline))
    assert (deadline.looks, abandoned) == (3, [future])


def test_a_cancelled_task_abandons_the_work(abandoned):
    async def run():
        future = Wanted()
        task = waiting(future, Deadline(PATIENCE_SECONDS), abandoned)
        await until_waited_for([future])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        future.set_result(1)  # too late, and nobody minds
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await turned.wait()
        assert abandoned == [future]

    asyncio.run(run())


def test_a_future_that_was_cancelled_is_out_of_time(abandoned):
    async def run():
        future = Wanted()
        task = waiting(future, Deadline(PATIENCE_SECONDS), abandoned)
        await until_waited_for([future])
        Future.cancel(future)
        await task

    with pytest.raises(DeadlineExceededError):
        asyncio.run(run())


def test_a_loop_that_is_closed_is_left_alone_and_not_kept(abandoned):
    futures = [Wanted(), Wanted()]
    loop = asyncio.new_event_loop()
    kept = weakref.ref(loop)

    async def begin():
        tasks = [waiting(each, Deadline(PATIENCE_SECONDS), abandoned) for each in futures]
        await until_waited_for(futures)
        for task in tasks:
            task._log_destroy_pending = False

    loop.run_until_complete(begin())
    futures[0].set_result(1)  # the loop is called, and closed before it comes to it
    loop.close()
    futures[1].set_result(2)
    del loop
    futures.clear()
    abandoned.clear()
    gc.collect()
    assert kept() is None


def test_a_task_that_nobody_holds_ends_its_wait(abandoned):
    """A loop knows its tasks weakly; what they wait for must keep them, as an executor's work does."""

    async def run(deadline):
        future, ended = Wanted(), asyncio.get_running_loop().create_future()

        async def call():
            ended.set_result(await wait_async(noting(future, abandoned), deadline))

        task = weakref.ref(asyncio.create_task(call()))
        await until_waited_for([future])
        gc.collect()
        assert task() is not None
        future.set_result(1)
        return await ended

    assert asyncio.run(run(Deadline(PATIENCE_SECONDS))) == 1
    assert asyncio.run(run(Deadline(math.inf))) == 1
    assert abandoned == []


def test_a_future_that_stays_keeps_no_loop(abandoned):
    """A load's future has the callbacks of all who have waited for it as long as the model is there."""
    future = Wanted()
    loop = asyncio.new_event_loop()
    kept = weakref.ref(loop)

    async def begin():
        late = wait_async(noting(future, abandoned), Deadline(0.0))
        with pytest.raises(DeadlineExceededError):
            await late
        task = waiting(future, Deadline(PATIENCE_SECONDS), abandoned)
        await asyncio.wait([task], timeout=0)
        future.set_result(1)
        return await task

    assert loop.run_until_complete(begin()) == 1
    loop.close()
    del loop
    gc.collect()
    assert kept() is None


class Timers:
    """The part of an event loop that its mailbox needs."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def time(self):
        return self.now

    def call_at(self, due, look):
        timer = SimpleNamespace(due=due, look=look, is_cancelled=False)
        timer.cancel = lambda: setattr(timer, "is_cancelled", True)
        self.timers.append(timer)
        return timer

    def ring(self):
        """The next timer, when it is due."""
        timer = min((one for one in self.timers if not one.is_cancelled), key=lambda one: one.due)
        self.timers.remove(timer)
        self.now = max(self.now, timer.due)
        timer.look()


def test_where_thousands_run_out_of_time_one_by_one_the_loop_is_not_kept_busy_with_looking():
    loop = Timers()
    mailbox = _Mailbox(loop)
    looks = 0

    class Watched(Deadline):
        def expired(self):
            nonlocal looks
            looks += 1
            return super().expired()

    async def run():
        def expect(seconds):
            woken = asyncio.get_running_loop().create_future()
            mailbox.expect(_Waiter(Watched(seconds, clock=loop.time), mailbox, woken))
            return woken

        late = [expect(1 + number * 0.001) for number in range(5_000)]
        while not all(woken.done() for woken in late):
            loop.ring()
            expect(0.01)  # who comes meanwhile has even less
        assert loop.now <= 6.2  # the last deadline, and a look's distance

    asyncio.run(run())
    seconds_per_look = 2e-6
    assert looks * seconds_per_look <= 0.15 * loop.now


class Watched(Arrivals):
    """Arrivals that tell when somebody has begun to wait, from within that wait."""

    def __init__(self, on_wait):
        super().__init__()
        self._on_wait = on_wait

    async def _wait(self, deadline):
        self._on_wait()
        await super()._wait(deadline)


def patience():
    return Deadline(PATIENCE_SECONDS)


def test_an_item_from_any_thread_wakes_the_task_that_waits_for_it():
    is_waited_for = threading.Event()
    arrivals = Watched(is_waited_for.set)

    def put():
        assert is_waited_for.wait(PATIENCE_SECONDS)
        arrivals.put("one")
        arrivals.put("two")

    async def run():
        return [await arrivals.get(patience()) for _ in range(2)]

    thread = threading.Thread(target=put)
    thread.start()
    assert asyncio.run(run()) == ["one", "two"]
    thread.join()


def test_an_item_that_comes_as_somebody_begins_to_wait_is_seen():
    arrivals = Watched(lambda: arrivals.put("one"))
    assert asyncio.run(arrivals.get(patience())) == "one"


def test_what_comes_between_two_loops_is_kept_for_the_second():
    arrivals = Arrivals()

    async def wait_and_leave():
        waiting = asyncio.create_task(arrivals.get(patience()))
        await checkpoint()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    asyncio.run(wait_and_leave())
    assert not arrivals._waiters
    arrivals.put("one")
    assert asyncio.run(arrivals.get(patience())) == "one"


def test_a_loop_that_was_closed_under_its_task_loses_nothing():
    arrivals = Arrivals()
    loop = asyncio.new_event_loop()
    left = loop.create_task(arrivals.get(patience()))
    loop.run_until_complete(checkpoint())
    loop.close()
    arrivals.put("one")
    assert asyncio.run(arrivals.get(patience())) == "one"
    left.get_coro().close()
    left._log_destroy_pending = False


def test_of_two_tasks_that_wait_for_one_item_the_other_waits_on():
    arrivals = Arrivals()

    async def run():
        first, second = (asyncio.create_task(arrivals.get(patience())) for _ in range(2))
        await checkpoint()
        arrivals.put("one")
        assert await first == "one"
        assert not second.done()
        arrivals.put("two")
        assert await second == "two"

    asyncio.run(run())
    assert not arrivals._waiters


def test_an_item_does_not_come_past_the_deadline():
    with pytest.raises(DeadlineExceededError):
        asyncio.run(Arrivals().get(Deadline(0)))


def test_who_was_woken_by_a_deadline_that_has_moved_waits_on():
    looks = iter([True, False])  # over when the mailbox looks, and moved when the task does
    seconds = iter([0])
    arrivals = Arrivals()

    def expired():
        is_over = next(looks)
        if not is_over:
            arrivals.put("one")
        return is_over

    deadline = SimpleNamespace(
        left=lambda: next(seconds, PATIENCE_SECONDS), expired=expired, asked_seconds=0
    )
    assert asyncio.run(arrivals.get(deadline)) == "one"
