"""One client's engines, on the tiny models: shared by aliases, evicted, quantised where allowed."""

import asyncio
import gc
import threading
import weakref
from dataclasses import replace

import pytest

from hybrid_infer import HybridClient, Settings
from hybrid_infer.datatypes.deadline import AttemptDeadline, Deadline
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InsufficientMemoryError,
    LocalEngineError,
)
from hybrid_infer.events import ModelLoaded, ModelLoading, ModelUnloaded
from hybrid_infer.local import loading
from hybrid_infer.local.backend import LocalBackend
from hybrid_infer.local.copies import find_copy
from hybrid_infer.local.engines import Engines
from hybrid_infer.local.generation import decoders
from hybrid_infer.local.hardware import Hardware
from hybrid_infer.local.placement import Situation, find_place
from hybrid_infer.local.quantizing import has_torchao
from hybrid_infer.registry import load_registry
from hybrid_infer.routing.targets import ReadinessState
from hybrid_infer.settings import MemorySettings

needs_torchao = pytest.mark.skipif(not has_torchao(), reason="torchao is not installed")
REGISTRY = load_registry(profile="tiny")
DEFAULT, LARGE, SMALL = (REGISTRY.resolve("chat", name) for name in ("default", "large", "small"))
MINI = REGISTRY.resolve("embeddings", "small")
ALLOWING = replace(DEFAULT, allow_quantized=True)


@pytest.fixture
def events():
    return []


@pytest.fixture
def engines(events):
    made = opened(events)
    yield made
    made.close()


def opened(events, **memory):
    return Engines(
        settings=Settings(memory=MemorySettings(**memory)),
        device="cpu",
        dtype="float32",
        download=None,
        on_event=events.append,
    )


def soon():
    return Deadline(60)


@pytest.fixture
def machine(monkeypatch):
    """How much memory this machine seems to have."""

    def set_bytes(size):
        monkeypatch.setattr(loading, "hardware", lambda device: Hardware("cpu", True, size))

    return set_bytes


def needed(spec):
    """Bytes with which `spec` just fits, in its original weights."""
    low, high = 0, 10**9
    _, facts = find_copy(spec)
    while low < high:
        middle = (low + high) // 2
        if find_place(Situation(spec, facts, Hardware("cpu", True, middle), "float32")) is None:
            low = middle + 1
        else:
            high = middle
    return low


# Sharing -----------------------------------------------------------------------------------------


def test_three_aliases_of_one_model_load_once(engines, events):
    with engines.lease(DEFAULT, soon()) as one, engines.lease(LARGE, soon()) as other:
        assert one is other
    assert [type(event) for event in events] == [ModelLoading, ModelLoading, ModelLoaded]
    assert [event.stage for event in events[:2]] == ["placing", "loading"]
    assert events[2].quantization is None


@pytest.mark.parametrize("order", [(ALLOWING, DEFAULT), (DEFAULT, ALLOWING)])
def test_the_original_weights_serve_aliases_that_would_take_a_quantised_copy_too(engines, order):
    with engines.lease(order[0], soon()) as one, engines.lease(order[1], soon()) as other:
        assert one is other
    engines.unload(order[1])
    assert engines.readiness(order[0], may_download=False).state is ReadinessState.COLD
    assert one.is_closed


def test_asked_at_the_same_time_they_still_load_once(engines, events):
    found = []

    def ask(spec):
        with engines.lease(spec, soon()) as engine:
            found.append(engine)

    threads = [
        threading.Thread(target=ask, args=(spec,)) for spec in (ALLOWING, DEFAULT, LARGE) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 9
    assert len({id(engine) for engine in found}) == 1
    assert len([event for event in events if isinstance(event, ModelLoaded)]) == 1


@pytest.mark.parametrize("begin", ["preload", "warm"])
@pytest.mark.parametrize("use", ["lease", "warm"])
def test_a_load_that_begins_once_somebody_has_looked_is_shared(
    engines, events, monkeypatch, begin, use
):
    look = engines._pool.lease if use == "lease" else engines._pool.request
    others = [DEFAULT]

    def late(*arguments):
        if others:
            getattr(engines, begin)(others.pop())
        return look(*arguments)

    monkeypatch.setattr(engines._pool, look.__name__, late)
    if use == "lease":
        with engines.lease(ALLOWING, soon()) as engine:
            assert engine.provenance.quantization is None
    else:
        engines.warm(ALLOWING)
    engines.warm(DEFAULT)
    assert len([event for event in events if isinstance(event, ModelLoaded)]) == 1


@needs_torchao
def test_a_quantised_copy_serves_only_the_alias_that_allows_it(engines, machine):
    machine(needed(DEFAULT) - 1)
    with engines.lease(ALLOWING, soon()) as engine:
        assert engine.provenance.quantization == "int8"
        assert engines.readiness(ALLOWING, may_download=False).may_be_quantized
        assert engines.readiness(DEFAULT, may_download=False).state is ReadinessState.COLD
        with pytest.raises(InsufficientMemoryError):
            engines.lease(DEFAULT, soon())
    assert engines.status(DEFAULT).state == "cold"
    assert "other local models loaded: 1" in engines.status(DEFAULT).detail
    assert engines.status(ALLOWING).quantization == "int8"


def test_without_torchao_the_refusal_names_the_extra(engines, machine, monkeypatch):
    from hybrid_infer.local import quantizing

    monkeypatch.setattr(quantizing, "find_spec", lambda name: None)
    machine(needed(DEFAULT) - 1)
    with pytest.raises(InsufficientMemoryError) as caught:
        engines.warm(ALLOWING)
    assert 'pip install "hybrid-infer[quant]"' in caught.value.message


@needs_torchao
@pytest.mark.parametrize("is_async", [True, False])
def test_a_quantised_copy_does_not_go_on_with_a_remotes_answer(machine, is_async):
    machine(needed(DEFAULT) - 1)
    backend = LocalBackend(settings=Settings(), device="cpu", dtype="float32")
    begun = ChatRequest(
        ALLOWING, ({"role": "user", "content": "Hello"},), max_tokens=4, answer_so_far="Once"
    )
    ask = (
        (lambda: asyncio.run(backend.astream(begun, soon())))
        if is_async
        else (lambda: backend.stream(begun, soon()))
    )
    with pytest.raises(LocalEngineError, match="quantised"):
        ask()
    fresh = backend.stream(replace(begun, answer_so_far=""), soon())
    assert fresh.provenance.quantization == "int8"
    fresh.close()
    backend.close()


# Eviction ----------------------------------------------------------------------------------------


def test_a_model_leaves_for_another_and_comes_back(events):
    engines = opened(events, budget_bytes=needed(SMALL) + 1000)
    with engines.lease(DEFAULT, soon()) as first:
        pass
    with engines.lease(SMALL, soon()):
        assert first.is_closed
        assert engines.status(DEFAULT).state == "cold"
        assert engines.status(SMALL).state == "warm"
        with pytest.raises(InsufficientMemoryError, match="budget_bytes"):
            engines.lease(DEFAULT, soon())
    with engines.lease(DEFAULT, soon()) as again:
        assert again is not first
    unloaded = [(e.model, e.reason) for e in events if isinstance(e, ModelUnloaded)]
    assert unloaded == [("chat/default", "memory"), ("chat/small", "memory")]
    engines.close()


def test_a_stream_keeps_its_model_until_it_ends_or_is_closed(events, monkeypatch):
    backend = LocalBackend(
        settings=Settings(memory=MemorySettings(budget_bytes=needed(SMALL) + 1000)),
        device="cpu",
        dtype="float32",
        on_event=events.append,
    )
    hello = ({"role": "user", "content": "Hello"},)
    request = ChatRequest(DEFAULT, hello, max_tokens=200, temperature=0)
    stream = backend.stream(request, soon())
    next(stream)
    (entry,) = backend._engines._pool._entries.values()
    decoder, gate = entry.engine._loop._decoder, threading.Event()
    decode = decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda *step: gate.wait(60) and decode(*step))
    with pytest.raises(InsufficientMemoryError):
        backend.warm(SMALL)
    gate.set()
    parts = list(stream)
    assert parts[-1].usage or parts[-1].choices[0].finish_reason
    backend.warm(SMALL)
    assert backend.readiness(DEFAULT).state is ReadinessState.COLD
    backend.close()


def test_an_evicted_model_gives_its_memory_back(engines):
    with engines.lease(DEFAULT, soon()) as engine:
        decoder = weakref.ref(engine._loop._decoder)
        alive = weakref.ref(engine)
    with engines.lease(MINI, soon()) as engine:
        embedder = weakref.ref(engine)
    del engine
    gc.disable()  # the pool itself must see to it
    try:
        engines.unload(DEFAULT)
        engines.unload(MINI)
        assert (alive(), decoder(), embedder()) == (None, None, None)
    finally:
        gc.enable()


def test_a_caller_that_gives_up_does_not_keep_a_model(engines, monkeypatch):
    gate = threading.Event()
    real = loading.load_engine
    monkeypatch.setattr(loading, "load_engine", lambda *a, **k: gate.wait(30) and real(*a, **k))
    with pytest.raises(DeadlineExceededError):
        engines.lease(DEFAULT, Deadline(0.01))

    async def ask():
        await engines.lease_async(DEFAULT, Deadline(0.01))

    with pytest.raises(DeadlineExceededError):
        asyncio.run(ask())
    assert engines.readiness(DEFAULT, may_download=False).state is ReadinessState.LOADING
    gate.set()
    engines.warm(DEFAULT)
    assert engines._pool._entries[engines._keys(DEFAULT)[0]].num_leases == 0


class WatchedAttempt(AttemptDeadline):
    """Tells that a caller has asked how long it may wait."""

    def __init__(self):
        super().__init__(Deadline(60), None, None)
        self.is_asked = threading.Event()

    def left(self):
        left = super().left()
        self.is_asked.set()
        return left


def test_an_attempt_that_is_given_up_waits_for_no_load(engines, monkeypatch):
    gate, errors = threading.Event(), []
    real = loading.load_engine
    monkeypatch.setattr(loading, "load_engine", lambda *a, **k: gate.wait(30) and real(*a, **k))
    attempt = WatchedAttempt()

    def ask():
        try:
            engines.lease(DEFAULT, attempt)
        except DeadlineExceededError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert attempt.is_asked.wait(30)
    attempt.cancel()
    asking.join(10)
    assert len(errors) == 1
    gate.set()
    engines.warm(DEFAULT)


def test_callers_that_wait_for_one_load_get_an_error_each(engines, monkeypatch):
    both_wait, errors = threading.Barrier(3), []

    def fail(*arguments, **options):
        both_wait.wait(30)
        raise LocalEngineError("damaged")

    lend = engines._pool._lend

    def lent(entry):
        lease = lend(entry)
        threading.Thread(target=both_wait.wait, args=(30,)).start()
        return lease

    monkeypatch.setattr(loading, "load_engine", fail)
    monkeypatch.setattr(engines._pool, "_lend", lent)

    def ask():
        try:
            engines.lease(DEFAULT, soon())
        except LocalEngineError as error:
            error.add_note("of one call")
            errors.append(error)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert [error.__notes__ for error in errors] == [["of one call"]] * 2


def test_an_idle_model_leaves_and_the_next_call_loads_it_again(events):
    left = threading.Event()

    def hear(event):
        events.append(event)
        if isinstance(event, ModelUnloaded):
            left.set()

    engines = Engines(
        settings=Settings(memory=MemorySettings(idle_seconds=0.05)),
        device="cpu",
        dtype="float32",
        download=None,
        on_event=hear,
    )
    engines.warm(MINI)
    assert left.wait(30)
    assert events[-1] == ModelUnloaded("embeddings/small", "idle")
    with engines.lease(MINI, soon()) as engine:
        assert not engine.is_closed
    engines.close()
    with pytest.raises(EngineClosedError):
        engines.lease(MINI, soon())


# What a client shows -----------------------------------------------------------------------------


def test_status_tells_state_place_and_use(tmp_path):
    with HybridClient(profile="tiny", policy="local-only", dtype="float32") as client:
        before = client.status()["local"]["chat/default"]
        assert before["state"] == "cold"
        assert before["seconds_left"] > 0
        assert before["bytes"] is None
        assert (before["is_busy"], before["computed_seconds"]) == (False, None)
        client.warm("chat/default")
        warm = client.status()["local"]["chat/large"]
        assert (warm["state"], warm["device"], warm["dtype"]) == ("warm", "cpu", "float32")
        assert warm["bytes"] > 0
        assert warm["idle_seconds"] >= 0
        assert warm["computed_seconds"] is None
        for _ in range(2):  # behind the second answer the first one's step is over
            client.chat_completion("hello", "large", max_tokens=1)
        assert client.status()["local"]["chat/large"]["computed_seconds"] >= 0
        assert warm["quantization"] is None
        row = next(row for row in client.list_models() if row["name"] == "chat/agent")
        assert (row["local"], row["local_device"], row["local_dtype"]) == (
            "warm",
            "cpu",
            "float32",
        )
        client.unload("chat/agent")
        assert client.status()["local"]["chat/default"]["state"] == "cold"


def test_status_tells_why_a_copy_is_absent():
    with HybridClient(policy="local-only") as client:
        status = client.status()["local"]["chat/small"]
    assert status["state"] == "absent"
    assert "hybrid-infer pull" in status["detail"]


def test_a_refused_load_is_told_with_its_fix_and_forgotten_once_it_fits():
    settings = Settings(memory=MemorySettings(budget_bytes=2**20))
    with HybridClient(profile="tiny", policy="local-only", settings=settings) as client:
        with pytest.raises(InsufficientMemoryError, match=r"raise settings.memory.budget_bytes to"):
            client.chat_completion("Hello", max_tokens=1)
        assert "budget_bytes" in client.status()["local"]["chat/default"]["detail"]
        row = next(row for row in client.list_models() if row["name"] == "chat/default")
        assert "budget_bytes" in row["local_detail"]


def test_a_failed_load_is_not_repeated_in_the_background_for_a_minute(events, clock):
    engines = Engines(
        settings=Settings(memory=MemorySettings(budget_bytes=2**20)),
        device="cpu",
        dtype="float32",
        download=None,
        on_event=events.append,
        clock=clock,
    )
    with pytest.raises(InsufficientMemoryError):
        engines.warm(DEFAULT)
    tries = len(events)
    engines.preload(DEFAULT)
    assert engines._pool.underway(engines._keys(DEFAULT)[0]) is None
    assert len(events) == tries
    clock.advance(60)
    engines.preload(DEFAULT)
    with pytest.raises(InsufficientMemoryError):
        engines.warm(DEFAULT)  # waits for it, or is the next try
    assert len(events) > tries
    engines.close()


def test_a_load_under_way_is_told(engines, monkeypatch):
    entered, gate = threading.Event(), threading.Event()
    load_decoder = decoders.load_decoder

    def slow(*arguments):
        entered.set()
        assert gate.wait(30)
        return load_decoder(*arguments)

    monkeypatch.setattr(decoders, "load_decoder", slow)
    engines.preload(DEFAULT)
    assert entered.wait(30)
    status = engines.status(DEFAULT)
    assert (status.state, status.stage, status.device) == ("loading", "loading", "cpu")
    assert status.bytes > 0
    gate.set()
    engines.warm(DEFAULT)
    assert engines.status(DEFAULT).stage is None
