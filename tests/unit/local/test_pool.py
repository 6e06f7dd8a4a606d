import threading

import pytest

from hybrid_infer.errors import EngineClosedError, ModelIntegrityError
from hybrid_infer.local.pool import ModelPool

KEY = ("embeddings", "org/model")


class FakeEngine:
    def __init__(self):
        self.is_closed = False

    def close(self):
        self.is_closed = True


@pytest.fixture
def pool(clock):
    made = ModelPool(clock)
    yield made
    made.close()


def test_many_callers_one_load(pool):
    gate, loads = threading.Event(), []

    def load():
        loads.append(1)
        assert gate.wait(10)
        return FakeEngine()

    futures = []
    threads = [
        threading.Thread(target=lambda: futures.append(pool.request(KEY, load))) for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.loaded(KEY) is None
    gate.set()
    assert len({id(future.result(10)) for future in futures}) == 1
    assert loads == [1]
    assert pool.loaded(KEY) is futures[0].result()


def test_a_failed_load_is_everyones_error_and_then_forgotten(pool):
    def broken():
        raise ModelIntegrityError("damaged")

    with pytest.raises(ModelIntegrityError):
        pool.request(KEY, broken).result(10)
    assert pool.loaded(KEY) is None
    assert isinstance(pool.request(KEY, FakeEngine).result(10), FakeEngine)


def test_a_dead_engine_is_replaced(pool):
    first = pool.request(KEY, FakeEngine).result(10)
    first.close()
    assert pool.loaded(KEY) is None
    assert pool.request(KEY, FakeEngine).result(10) is not first


def test_load_times_are_remembered(pool, clock):
    def load():
        clock.advance(3.5)
        return FakeEngine()

    pool.request(KEY, load).result(10)
    assert pool.load_seconds(KEY) == 3.5


def test_loading_since(pool, clock):
    gate = threading.Event()
    future = pool.request(KEY, lambda: gate.wait(10) and FakeEngine())
    assert pool.loading_since(KEY) == clock.now
    gate.set()
    future.result(10)
    assert pool.loading_since(KEY) is None


def test_unloading_closes(pool):
    engine = pool.request(KEY, FakeEngine).result(10)
    pool.unload(KEY)
    assert engine.is_closed
    assert pool.loaded(KEY) is None
    pool.unload(KEY)


def test_closing_while_loading_closes_what_arrives(clock):
    pool, gate, made = ModelPool(clock), threading.Event(), FakeEngine()
    future = pool.request(KEY, lambda: gate.wait(10) and made)
    pool.close()
    gate.set()
    with pytest.raises(EngineClosedError):
        future.result(10)
    assert made.is_closed
    with pytest.raises(EngineClosedError):
        pool.request(KEY, FakeEngine)
