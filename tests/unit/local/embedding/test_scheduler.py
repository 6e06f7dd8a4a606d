"""The scheduler alone, with requests that are only counted: who wakes whom."""

import itertools
import threading
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import DeadlineExceededError, EngineClosedError, OverloadedError
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.scheduler import CROWD, Scheduler
from hybrid_infer.local.embedding.texts import Slice
from hybrid_infer.local.embedding.tokens import Tokens

PATIENCE_SECONDS = 20.0
NO_IDS = np.empty(0, np.int32)  # nobody looks at them


class Runner:
    """Holds its first batches back until it is told; then answers everybody."""

    token_budget = 4096
    deadly = None  # the request that it dies of

    def __init__(self):
        self.entered, self.gate = threading.Event(), threading.Event()

    def prepare(self):
        pass

    def run(self, batch, *, normalize):
        self.entered.set()
        assert self.gate.wait(PATIENCE_SECONDS)
        if any(share.owner is self.deadly for share in batch):
            raise SystemExit
        for share in batch:
            share.owner.texts.num_left -= len(share)
            if not share.owner.texts.num_left:
                with suppress(Exception):  # it has been abandoned
                    share.owner.give(None)


def job(num_slices, tokens_of_a_slice):
    texts = SimpleNamespace(
        request=SimpleNamespace(normalize=True),
        num_characters=30_000 if num_slices > 1 else 10,
        num_texts=num_slices,
        num_tokens=num_slices * tokens_of_a_slice,
        num_left=num_slices,
        num_tokenized=0,
        num_slices=num_slices,
        size=tokens_of_a_slice,
        is_tokenized=False,
        is_short=num_slices == 1,
    )
    return EmbedJob(texts, Deadline(PATIENCE_SECONDS), None)


def tokenize(jobs, _leave_all):
    done = []
    for one in jobs:
        texts = one.texts
        done.append((one, Slice([texts.num_tokenized], Tokens(NO_IDS, [texts.size]))))
        texts.num_tokenized += 1
        texts.is_tokenized = texts.num_tokenized == texts.num_slices
    return done


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def scheduler(runner):
    made = Scheduler("test", [runner], tokenize)
    yield made
    runner.gate.set()
    made.close()


def is_nobody_hungry(scheduler):
    """Looked at only: if it is taken, the thread that waits for it is woken no more."""
    intake, window = scheduler._intake, scheduler._window
    with scheduler._lock:
        if intake.inbox or "tokenize" in scheduler._busy_with:
            return False
        ahead = scheduler._lanes.tokens_ahead() // max(1, len(intake._long))
        return all(window.tokens_of(one) > ahead for one in intake._long)


def test_those_who_leave_wake_the_tokeniser_for_those_who_stay(scheduler, runner, until):
    """Each of forty holds its fortieth of what is tokenised ahead; then thirty-nine leave."""
    scheduler.submit(job(1, 5), Slice([0], Tokens(NO_IDS, [5])))
    assert runner.entered.wait(PATIENCE_SECONDS)
    long = [job(30, 210) for _ in range(40)]
    short = [job(1, 5) for _ in range(8)]
    for one in (*long, *short):
        scheduler.submit(one, None)
    until(lambda: is_nobody_hungry(scheduler))
    with scheduler._lock:
        stays = min(scheduler._intake._long, key=scheduler._window.tokens_of)
    for one in long:
        if one is not stays:
            one.cancel()
    runner.gate.set()
    for one in (*short, stays):
        one.result(PATIENCE_SECONDS)


@pytest.mark.parametrize("callers", [CROWD - 1, CROWD])
def test_on_a_gpu_a_crowd_waits_for_the_lane_that_computes_and_shares_its_next_batch(callers):
    scheduler = Scheduler("test", [Runner(), Runner(), Runner()], tokenize, fills_batches=True)
    busy, free = scheduler._lanes.shares
    busy.is_busy = True
    for one in [job(1, 5) for _ in range(callers)]:
        scheduler._live.admit(one)
        scheduler._add(one, Slice([0], Tokens(NO_IDS, [5])))
    with scheduler._lock:
        if callers < CROWD:
            assert len(scheduler._take(free, [])) == callers
            return
        assert scheduler._take(free, []) == []
        busy.is_busy = False
        assert len(scheduler._take(busy, [])) == callers


@pytest.mark.parametrize("num_left", [0, CROWD - 1, CROWD])
@pytest.mark.parametrize("dies", [False, True])
def test_a_crowd_goes_on_when_the_lane_that_it_waits_for_ends_or_dies(
    runner, dies, num_left, caplog
):
    scheduler = Scheduler("test", [runner] * 3, tokenize, fills_batches=True)
    first = job(2, 5)
    runner.deadly = first if dies else None
    scheduler.submit(first, Slice([0, 1], Tokens(NO_IDS, [5, 5])))
    assert runner.entered.wait(PATIENCE_SECONDS)
    crowd = [job(1, 5) for _ in range(CROWD)]
    with scheduler._lock:  # all at once, or the other lane would take the first
        for one in crowd:
            scheduler._live.admit(one)
            scheduler._add(one, Slice([0], Tokens(NO_IDS, [5])))
        scheduler._lanes.wake(len(scheduler._window))
    for one in crowd:
        one.queue = scheduler
    for one in crowd[:num_left]:
        one.cancel()
    runner.gate.set()
    for one in crowd[num_left:]:
        one.result(PATIENCE_SECONDS)
    with pytest.raises(EngineClosedError) if dies else nullcontext():
        first.result(PATIENCE_SECONDS)
    scheduler.close()


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_lane_tokenises_a_crowd_together(runner, lanes):
    together, tokenised_by = [], set()

    def counted(jobs, leave_all):
        together.append(len(jobs))
        tokenised_by.add(threading.current_thread().name)
        return tokenize(jobs, leave_all)

    scheduler = Scheduler("test", [runner] * lanes, counted)
    first = job(2, 5)
    scheduler.submit(first, Slice([0, 1], Tokens(NO_IDS, [5, 5])))
    assert runner.entered.wait(PATIENCE_SECONDS)
    crowd = [job(1, 5) for _ in range(CROWD)]
    with scheduler._lock:  # all at once, or an idle lane would take the first alone
        for one in crowd:
            scheduler._live.admit(one)
            scheduler._intake.add(one)
    for one in crowd:
        one.queue = scheduler
    runner.gate.set()
    for one in (first, *crowd):
        one.result(PATIENCE_SECONDS)
    assert together == [CROWD]
    assert all("compute" in name for name in tokenised_by)
    scheduler.close()


def test_a_lane_that_dies_of_a_crowd_s_texts_fails_them_and_is_replaced(runner, caplog):
    deadly = job(1, 5)

    def dying(jobs, leave_all):
        if deadly in jobs:
            raise SystemExit
        return tokenize(jobs, leave_all)

    runner.gate.set()
    scheduler = Scheduler("test", [runner], dying)
    scheduler.submit(deadly, None)
    with pytest.raises(EngineClosedError):
        deadly.result(PATIENCE_SECONDS)
    other = job(1, 5)
    scheduler.submit(other, None)
    other.result(PATIENCE_SECONDS)
    assert not scheduler.is_busy
    scheduler.close()


def test_a_crowd_that_is_tokenised_wakes_the_other_lanes(until):
    """One lane tokenises, slice by slice; the others compute what is ready meanwhile."""
    second_slice, computed = threading.Event(), threading.Event()
    slices = itertools.count(1)

    class Noting(Runner):
        def run(self, batch, *, normalize):
            super().run(batch, normalize=normalize)
            computed.set()

    def slowly(jobs, leave_all):
        if next(slices) == 2:
            second_slice.set()
            assert computed.wait(PATIENCE_SECONDS)  # by another lane: this one is here
        return tokenize(jobs, leave_all)

    runners = [Noting() for _ in range(3)]
    for one in runners:
        one.gate.set()
    scheduler = Scheduler("test", runners, slowly)
    crowd = [job(1, 5) for _ in range(CROWD)]
    for one in crowd:  # two a slice: what is tokenised alone is the first lane's to compute
        one.texts.num_characters = 16_000
    scheduler._ensure_threads(needs_thread=False)
    until(lambda: all(lane.is_waiting for lane in scheduler._lanes))
    with scheduler._lock:
        for one in crowd:
            scheduler._live.admit(one)
            scheduler._intake.add(one)
        scheduler._lanes.wake(len(scheduler._window))
    for one in crowd:
        one.queue = scheduler
    for one in crowd:
        one.result(PATIENCE_SECONDS)
    assert second_slice.is_set()
    scheduler.close()


def test_a_crowd_that_never_ends_does_not_keep_a_lane_from_computing(runner):
    """Each slice that is tokenised finds another one waiting."""
    runner.token_budget = 10
    runner.gate.set()
    scheduler = None
    endless, extra = [], iter(range(1000))

    def feeding(jobs, leave_all):
        if not endless[0].done() and next(extra, None) is not None:
            endless.append(job(1, 5))
            with scheduler._lock:
                scheduler._live.admit(endless[-1])
                scheduler._intake.add(endless[-1])
            endless[-1].queue = scheduler
        return tokenize(jobs, leave_all)

    scheduler = Scheduler("test", [runner], feeding)
    endless.append(job(1, 5))
    scheduler.submit(endless[0], None)
    endless[0].result(PATIENCE_SECONDS)
    assert next(extra, None) is not None
    scheduler.close()


def test_a_late_crowd_is_not_tokenised(runner):
    seen = []

    def noting(jobs, leave_all):
        seen.extend(jobs)
        return tokenize(jobs, leave_all)

    runner.gate.set()
    scheduler = Scheduler("test", [runner], noting)
    late, other = job(1, 5), job(1, 5)
    late.deadline = Deadline(-1.0)
    for one in (late, other):
        scheduler.submit(one, None)
    other.result(PATIENCE_SECONDS)
    with pytest.raises(DeadlineExceededError):
        late.result(PATIENCE_SECONDS)
    assert seen == [other]
    scheduler.close()


def test_a_window_full_of_what_nobody_wants_keeps_no_crowd_waiting(runner):
    """Those whose callers have left this very moment are in the window still."""
    scheduler = Scheduler("test", [runner], tokenize)
    first = job(2, 5)
    scheduler.submit(first, Slice([0, 1], Tokens(NO_IDS, [5, 5])))
    assert runner.entered.wait(PATIENCE_SECONDS)
    gone, short = job(1, 100_000), job(1, 5)
    with scheduler._lock:
        for one in (gone, short):
            scheduler._live.admit(one)
        scheduler._add(gone, Slice([0], Tokens(NO_IDS, [100_000])))
        scheduler._intake.add(short)
    short.queue = scheduler
    gone.cancel()  # and nothing has been told of it yet
    runner.gate.set()
    short.result(PATIENCE_SECONDS)
    scheduler.leave(gone)
    scheduler.close()


def test_who_posts_to_the_tokenising_thread_waits_for_no_lock_of_those_who_compute(until):
    scheduler = Scheduler("test", [Runner() for _ in range(3)], tokenize, fills_batches=True)
    for runner in scheduler._lanes:
        runner.runner.gate.set()
    first = job(1, 5)
    scheduler.submit(first, None)  # starts the threads
    first.result(PATIENCE_SECONDS)
    crowd = [job(1, 5) for _ in range(CROWD)]
    with scheduler._lock:
        posting = threading.Thread(target=lambda: [scheduler.submit(one, None) for one in crowd])
        posting.start()
        posting.join(PATIENCE_SECONDS)
        assert not posting.is_alive()
        assert len(scheduler._live) == CROWD
    for one in crowd:
        one.result(PATIENCE_SECONDS)
    until(lambda: not scheduler._live)
    scheduler.close()


@pytest.mark.parametrize("fills_batches", [True, False])
def test_a_short_request_behind_large_ones_is_soon_served(fills_batches, until):
    """There is always more tokenised of the large ones than the lanes need."""

    class Slow(Runner):
        token_budget = 1024

        def run(self, batch, *, normalize):
            super().run(batch, normalize=normalize)
            if not short.done():
                batches_before.append(batch)
            until(lambda: short.done() or (is_enough_ahead() and not is_in_hand()))

    def is_enough_ahead():
        return scheduler._window.tokens >= scheduler._lanes.tokens_ahead()

    def is_in_hand():
        """Others are not to overtake a thread that tokenises it and gets no core."""
        with scheduler._lock:
            return any(short in jobs for jobs in scheduler._busy_with.values())

    lanes, batches_before = [Slow() for _ in range(3)], []
    scheduler = Scheduler("test", lanes, tokenize, fills_batches=fills_batches)
    large = [job(100, 2_100) for _ in range(CROWD)]  # slices larger than what is wanted ahead
    for one in large:
        scheduler.submit(one, None)
    until(is_enough_ahead)
    short = job(1, 5)
    scheduler.submit(short, None)
    for one in lanes:
        one.gate.set()
    short.result(PATIENCE_SECONDS)
    assert len(batches_before) <= 20, "of 800"
    for one in large:
        one.cancel()
    scheduler.close()


def test_an_interrupt_while_a_request_is_queued_leaves_nothing_behind(scheduler, monkeypatch):
    wake, here = scheduler._lanes.wake, threading.current_thread()

    def interrupt(waiting):
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        wake(waiting)

    monkeypatch.setattr(scheduler._lanes, "wake", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scheduler.submit(job(1, 5), None)
    assert scheduler.is_idle
    assert scheduler._live._admission.texts == 0


def test_a_closed_scheduler_says_so_even_if_a_batch_does_not_end(scheduler, runner):
    now = [0.0]
    stuck = Scheduler("test", [runner], tokenize, clock=lambda: now[0])
    first = job(1, 5)
    stuck.submit(first, None)
    assert runner.entered.wait(PATIENCE_SECONDS)
    now[0] = 100.0
    with pytest.raises(OverloadedError, match="stuck"):
        stuck.submit(job(1, 5), None)
    closing = threading.Thread(target=stuck.close)
    closing.start()
    with pytest.raises(EngineClosedError):
        first.result(PATIENCE_SECONDS)
    with pytest.raises(EngineClosedError, match="closed"):
        stuck.submit(job(1, 5), None)
    runner.gate.set()
    closing.join(PATIENCE_SECONDS)


def test_a_closed_scheduler_answers_those_that_are_on_their_way_to_be_tokenised():
    tokenising, go_on = threading.Event(), threading.Event()

    def slowly(jobs, leave_all):
        tokenising.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return tokenize(jobs, leave_all)

    scheduler = Scheduler("test", [Runner() for _ in range(3)], slowly, fills_batches=True)
    jobs = [job(1, 5), job(1, 5)]
    scheduler.submit(jobs[0], None)
    assert tokenising.wait(PATIENCE_SECONDS)
    scheduler.submit(jobs[1], None)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    for one in jobs:
        with pytest.raises(EngineClosedError):
            one.result(PATIENCE_SECONDS)
    go_on.set()
    closing.join(PATIENCE_SECONDS)
    with pytest.raises(EngineClosedError):
        scheduler.submit(job(1, 5), None)
    assert not scheduler._live
