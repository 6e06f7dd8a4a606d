"""The pool with engines that do nothing: who is loaded once, who stays, who leaves, and when."""

import gc
import threading
import weakref
from contextlib import suppress
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybrid_infer.errors import (
    EngineClosedError,
    InsufficientMemoryError,
    ModelIntegrityError,
    OverloadedError,
)
from hybrid_infer.local.answer import Answer
from hybrid_infer.local.entries import Entry
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.pool import ModelPool

KEY, OTHER, THIRD = ("chat", "org/model"), ("chat", "org/other"), ("chat", "org/third")
BUDGET = 100


class FakeEngine:
    def __init__(self):
        self.is_closed = self.is_busy = False

    def close(self):
        self.is_closed = True


def decide(size, *, budget=BUDGET, seen=None):
    """A model of `size` that fits if what others claim leaves so much of the budget."""

    def decided(claims, gone):
        if seen is not None:
            seen.append((sum(claim.bytes for claim in claims), len(gone)))
        if sum(claim.bytes for claim in claims) + size > budget:
            raise InsufficientMemoryError(f"{size} do not fit")
        return Placement("cpu", "float32", cache_bytes=size)

    return decided


def sized(size, **options):
    def load(loading):
        loading.place(decide(size, **options))
        return FakeEngine()

    return load


def load_any(loading):
    return FakeEngine()


class Timers:
    """Timers that ring when the virtual clock is moved past them."""

    def __init__(self, clock):
        self.clock, self.waiting, self.num_started = clock, [], 0

    def __call__(self, seconds, call):
        timer = FakeTimer(self, self.clock.now + seconds, call)
        self.waiting.append(timer)
        self.num_started += 1
        return timer

    def advance(self, seconds):
        self.clock.advance(seconds)
        for timer in [timer for timer in self.waiting if timer.due <= self.clock.now]:
            self.waiting.remove(timer)
            timer.call()


class FakeTimer:
    def __init__(self, timers, due, call):
        self.timers, self.due, self.call = timers, due, call

    def cancel(self):
        self.timers.waiting.remove(self)


@pytest.fixture
def unloads():
    return []


@pytest.fixture
def pool(clock, unloads):
    made = ModelPool(clock, on_unload=lambda key, reason: unloads.append((key, reason)))
    yield made
    made.close()


def load(pool, key, loader=load_any):
    engine = pool.request(key, loader).result(10)
    with pool._lock:  # under which the loading thread sets the timer
        return engine


# One load for all --------------------------------------------------------------------------------


def test_many_callers_one_load(pool):
    gate, loads = threading.Event(), []

    def gated(loading):
        loads.append(1)
        assert gate.wait(10)
        return FakeEngine()

    leases = []
    threads = [
        threading.Thread(target=lambda: leases.append(pool.lease(KEY, gated))) for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.loaded(KEY) is None
    gate.set()
    assert len({id(lease.future.result(10)) for lease in leases}) == 1
    assert loads == [1]
    assert pool.loaded(KEY) is leases[0].future.result()


def test_a_failed_load_is_everyones_error_and_then_forgotten(pool):
    def broken(loading):
        raise ModelIntegrityError("damaged")

    with pytest.raises(ModelIntegrityError):
        load(pool, KEY, broken)
    assert pool.loaded(KEY) is None
    assert pool.occupancy(KEY).failure == "damaged"
    assert isinstance(load(pool, KEY), FakeEngine)
    assert pool.occupancy(KEY).failure is None


def test_a_failed_load_keeps_nothing_alive(pool):
    class Tensor:
        pass

    made = []

    def broken(loading):
        tensor = Tensor()
        made.append(weakref.ref(tensor))
        raise ModelIntegrityError("damaged")

    future = pool.request(KEY, broken)
    with pytest.raises(ModelIntegrityError) as caught:
        future.result(10)
    gc.collect()
    assert made[0]() is None, "though the error is still held"
    assert caught.value.message == "damaged"


@pytest.mark.timeout(20)
def test_looking_at_an_entry_in_the_moment_in_which_it_is_dropped_does_not_wait():
    class Dropping(Answer):
        def done(self):
            entry.future = Answer()  # what another thread does
            return super().done()

    entry, engine = Entry(Dropping(), 0.0, 0.0), FakeEngine()
    entry.future.give(engine)
    assert entry.engine is engine
    assert entry.engine is None


def test_a_dead_engine_is_replaced(pool):
    first = load(pool, KEY)
    first.close()
    assert pool.loaded(KEY) is None
    assert pool.lease_loaded(KEY) is None
    assert load(pool, KEY) is not first


def test_load_times_and_stages_are_told(pool, clock):
    gate, entered = threading.Event(), threading.Event()

    def staged(loading):
        loading.enter("downloading")
        clock.advance(600)
        loading.enter("placing")
        clock.advance(3.5)
        entered.set()
        assert gate.wait(10)
        return FakeEngine()

    started = clock.now
    future = pool.request(KEY, staged)
    assert entered.wait(10)
    assert pool.occupancy(KEY).stage == "placing"
    assert pool.occupancy(KEY).started_at == started + 600
    assert pool.underway(KEY) is future
    gate.set()
    future.result(10)
    assert pool.load_seconds(KEY) == 3.5
    assert pool.occupancy(KEY).started_at is None
    assert pool.underway(KEY) is None
    assert pool.occupancy(KEY).stage is None


def test_no_thread_to_load_on_is_a_typed_error_and_the_next_call_tries_again(pool, monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(OverloadedError):
            pool.request(KEY, load_any)
    assert isinstance(load(pool, KEY), FakeEngine)


# Leaving when asked ------------------------------------------------------------------------------


def test_unloading_closes(pool, unloads):
    engine = load(pool, KEY)
    pool.unload(KEY)
    assert engine.is_closed
    assert pool.loaded(KEY) is None
    pool.unload(KEY)
    assert unloads == [(KEY, "asked")]


def test_unloading_during_a_load_ends_it_for_nothing(pool, unloads):
    gate, made = threading.Event(), FakeEngine()
    future = pool.request(KEY, lambda loading: gate.wait(10) and made)
    pool.unload(KEY)
    gate.set()
    with pytest.raises(EngineClosedError, match="unloaded while it loaded"):
        future.result(10)
    assert made.is_closed
    assert load(pool, KEY) is not made
    assert unloads == [(KEY, "asked")]


def test_closing_unloads_what_is_loaded(pool, unloads):
    load(pool, KEY)
    pool.close()
    pool.close()
    assert unloads == [(KEY, "closed")]


def test_closing_while_loading_closes_what_arrives(clock):
    unloads, gate, made = [], threading.Event(), FakeEngine()
    pool = ModelPool(clock, on_unload=lambda key, reason: unloads.append((key, reason)))
    future = pool.request(KEY, lambda loading: gate.wait(10) and made)
    pool.close()
    gate.set()
    with pytest.raises(EngineClosedError):
        future.result(10)
    assert made.is_closed
    assert unloads == [(KEY, "closed")]
    for ask in (pool.request, pool.lease):
        with pytest.raises(EngineClosedError):
            ask(KEY, load_any)


# Leaving for another -----------------------------------------------------------------------------


def test_the_one_used_longest_ago_makes_room_and_no_more_than_needed(pool, clock, unloads):
    engines = {}
    for key in (KEY, OTHER, THIRD):
        engines[key] = load(pool, key, sized(30))
        clock.advance(1)
    with pool.lease(KEY, load_any):
        clock.advance(1)
    load(pool, ("chat", "org/fourth"), sized(30))
    assert unloads == [(OTHER, "memory")]
    assert engines[OTHER].is_closed
    assert not engines[KEY].is_closed


def test_a_call_in_flight_keeps_its_engine(pool, unloads):
    with pool.lease(KEY, sized(60)) as engine:
        with pytest.raises(InsufficientMemoryError):
            load(pool, OTHER, sized(60))
        assert not engine.is_closed
        assert pool.loaded(KEY) is engine
    assert load(pool, OTHER, sized(60))
    assert engine.is_closed
    assert unloads == [(KEY, "memory")]


def test_a_busy_engine_stays_though_nobody_holds_a_lease(pool):
    engine = load(pool, KEY, sized(60))
    engine.is_busy = True
    with pytest.raises(InsufficientMemoryError):
        load(pool, OTHER, sized(60))
    engine.is_busy = False
    assert load(pool, OTHER, sized(60))
    assert engine.is_closed


def test_whoever_waits_for_a_load_holds_a_lease_already(pool, unloads):
    gate, placed = threading.Event(), threading.Event()

    def gated(loading):
        loading.place(decide(60))
        placed.set()
        assert gate.wait(10)
        return FakeEngine()

    lease = pool.lease(KEY, gated)
    assert placed.wait(10)
    with pytest.raises(InsufficientMemoryError):  # what is being loaded counts, and stays
        load(pool, OTHER, sized(60))
    gate.set()
    lease.future.result(10)
    with pytest.raises(InsufficientMemoryError):  # nobody can take it away before it is used
        load(pool, OTHER, sized(60))
    with lease as engine:
        assert not engine.is_closed
    assert load(pool, OTHER, sized(60))
    assert unloads == [(KEY, "memory")]


def test_what_fits_nowhere_drives_nobody_out(pool):
    engines = [load(pool, key, sized(30)) for key in (KEY, OTHER)]
    with pytest.raises(InsufficientMemoryError):
        load(pool, THIRD, sized(101))
    assert not any(engine.is_closed for engine in engines)


def test_weights_in_the_cpus_memory_are_the_last_resort(pool, unloads):
    def load_large(loading):
        def decided(claims, gone):
            is_crowded = bool(claims)
            spread = (("cuda:0", 50), ("cpu", 50)) if is_crowded else ()
            return Placement("cuda:0", "float32", spread=spread, cache_bytes=70)

        assert not loading.place(decided).is_offloaded
        return FakeEngine()

    load(pool, KEY, sized(30))
    load(pool, OTHER, load_large)
    assert unloads == [(KEY, "memory")]


def test_out_of_memory_in_the_middle_of_a_load_evicts_one_and_is_tried_once_more(pool, unloads):
    load(pool, OTHER, sized(20))
    tries = []

    def tight(loading):
        loading.place(decide(40))
        tries.append(pool.loaded(OTHER) is not None)
        if len(tries) == 1:
            raise InsufficientMemoryError("CUDA out of memory")
        return FakeEngine()

    assert load(pool, KEY, tight)
    assert tries == [True, False]
    assert unloads == [(OTHER, "memory")]


def test_out_of_memory_twice_or_with_nobody_to_evict_is_the_callers_error(pool):
    tries = []

    def hopeless(loading):
        loading.place(decide(40))
        tries.append(1)
        raise InsufficientMemoryError("CUDA out of memory")

    with pytest.raises(InsufficientMemoryError):
        load(pool, KEY, hopeless)
    assert len(tries) == 1
    load(pool, OTHER, sized(20))
    load(pool, THIRD, sized(20))
    with pytest.raises(InsufficientMemoryError):
        load(pool, KEY, hopeless)
    assert len(tries) == 3
    assert pool.loaded(THIRD) is not None or pool.loaded(OTHER) is not None


def test_an_evicted_engine_is_freed(pool):
    known = weakref.ref(load(pool, KEY, sized(60)))
    load(pool, OTHER, sized(60))
    assert known() is None


def test_eight_threads_on_one_key_while_it_is_driven_out_again_and_again(pool):
    """A call gets an engine that is open, or loads it anew; never `EngineClosedError`."""
    calls, wrong, served = 60, [], []

    def call(key):
        for _ in range(calls):
            # A refusal is right while the other one is being used.
            with suppress(InsufficientMemoryError), pool.lease(key, sized(60)) as engine:
                served.append(key)
                if engine.is_closed or pool.loaded(key) is not engine:
                    wrong.append(engine)

    threads = [threading.Thread(target=call, args=(KEY,)) for _ in range(8)]
    threads.append(threading.Thread(target=call, args=(OTHER,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert served  # of which key is a matter of chance: one in use is refused to the other


# Leaving unasked ---------------------------------------------------------------------------------


@pytest.fixture
def timers(clock):
    return Timers(clock)


@pytest.fixture
def sleepy(clock, timers, unloads):
    made = ModelPool(
        clock,
        idle_seconds=60.0,
        on_unload=lambda key, reason: unloads.append((key, reason)),
        start_timer=timers,
    )
    yield made
    made.close()


def test_without_an_idle_time_there_is_no_timer(clock, timers):
    pool = ModelPool(clock, start_timer=timers)
    load(pool, KEY)
    assert timers.num_started == 0
    pool.close()


def test_an_idle_engine_leaves_and_its_last_use_counts(sleepy, timers, unloads):
    assert timers.waiting == []
    load(sleepy, KEY)
    timers.advance(40)
    with sleepy.lease(KEY, load_any):
        pass
    load(sleepy, OTHER)
    timers.advance(59)
    assert unloads == []
    assert len(timers.waiting) == 1, "one for the whole pool"
    timers.advance(1)
    assert sorted(unloads) == [(KEY, "idle"), (OTHER, "idle")]
    assert timers.waiting == [], "and none when nothing is loaded"
    load(sleepy, KEY)
    timers.advance(60)
    assert len(unloads) == 3


def test_an_engine_in_use_is_never_idle(sleepy, timers, unloads):
    with sleepy.lease(KEY, load_any) as engine:
        sleepy.request(KEY, load_any).result(10)
        timers.advance(1_000)
        assert unloads == []
    engine.is_busy = True  # a stream that goes on
    timers.advance(1_000)
    assert unloads == []
    engine.is_busy = False
    timers.advance(59)
    assert unloads == [], "the time begins when it was last seen at work"
    timers.advance(1)
    assert unloads == [(KEY, "idle")]


def test_closing_stops_the_timer(sleepy, timers):
    load(sleepy, KEY)
    assert len(timers.waiting) == 1
    sleepy.close()
    assert timers.waiting == []


def test_a_real_timer_is_a_daemon_and_rings(unloads):
    left = threading.Event()
    pool = ModelPool(idle_seconds=0.01, on_unload=lambda key, reason: left.set())
    load(pool, KEY)
    assert left.wait(10)
    assert pool.loaded(KEY) is None
    load(pool, KEY)
    # One that has rung may still be ending.
    assert all(t.daemon for t in threading.enumerate() if t.name == "hybrid-infer-idle")
    pool.close()


# Everything at once ------------------------------------------------------------------------------


class Pooled(RuleBasedStateMachine):
    """Loads, calls and streams in any order, against a budget."""

    keys = st.integers(0, 5)

    def __init__(self):
        super().__init__()
        self.now, self.sizes, self.leases, self.used = 0.0, {}, [], {}
        self.pool = ModelPool(lambda: self.now, on_unload=self.left)
        # Each collects all garbage of a process with many tests' objects.
        self.frees_nothing = patch("hybrid_infer.local.pool.free_memory")
        self.frees_nothing.start()

    def left(self, key, reason):
        if reason == "closed":
            return
        number = key[0]
        assert reason == "memory"
        assert all(held != number for held, _ in self.leases), "one in use was evicted"
        candidates = [
            n for n in self.used if n == number or not any(held == n for held, _ in self.leases)
        ]
        assert self.used[number] == min(self.used[n] for n in candidates), "not the oldest"
        del self.used[number]

    def ask(self, number, size):
        self.now += 1
        size = self.sizes.setdefault(number, size)
        evictable = [
            n for n in self.used if n != number and all(held != n for held, _ in self.leases)
        ]
        stays = sum(self.sizes[n] for n in self.used if n not in evictable and n != number)
        lease = self.pool.lease((number,), sized(size))
        try:
            lease.future.result(10)
        except InsufficientMemoryError:
            assert number not in self.used
            assert stays + size > BUDGET, "it was refused though making room was possible"
            lease.release()
            return
        self.used[number] = self.now
        self.leases.append((number, lease))

    @rule(number=keys, size=st.integers(1, 70))
    def open_call(self, number, size):
        self.ask(number, size)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def end_call(self, data):
        self.now += 1
        index = data.draw(st.integers(0, len(self.leases) - 1))
        number, lease = self.leases.pop(index)
        with lease as engine:
            assert not engine.is_closed
        self.used[number] = self.now

    @invariant()
    def within_budget(self):
        loaded = [n for n in self.sizes if self.pool.loaded((n,)) is not None]
        assert set(loaded) == set(self.used)
        assert sum(self.sizes[n] for n in loaded) <= BUDGET

    @invariant()
    def the_newest_is_there(self):
        if self.used:
            newest = max(self.used, key=self.used.get)
            assert self.pool.loaded((newest,)) is not None

    def teardown(self):
        self.pool.close()
        self.frees_nothing.stop()


TestPooled = Pooled.TestCase
TestPooled.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
