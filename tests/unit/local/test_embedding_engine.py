"""The engine on fakes gated by events: order, poison, cancellation, death, shutdown."""

import asyncio
import threading

import numpy as np
import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineClosedError,
    InsufficientMemoryError,
    LocalEngineError,
    OverloadedError,
)
from hybrid_infer.local.embedding.engine import EmbeddingEngine
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts
from hybrid_infer.local.waiting import wait, wait_async
from hybrid_infer.local.worker import Worker

SPEC = ModelSpec("embeddings", "small", "org/model", None)


class FakeTokenizer:
    max_seq_length = 8

    def __call__(self, texts):
        ids = [[ord(c) for c in text][: self.max_seq_length] for text in texts]
        return TokenizedTexts(ids, [len(text) > self.max_seq_length for text in texts])


class FakeEncoder:
    """One row per sequence: its length and its first token. Texts starting with ! are trouble."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.computed = []

    def encode(self, sequences, *, normalize):
        self.entered.set()
        assert self.gate.wait(10)
        rows = []
        for ids in sequences:
            text = "".join(map(chr, ids))
            if text == "!error":
                raise RuntimeError("boom")
            if text == "!memory":
                raise MemoryError
            if text == "!exit":
                raise SystemExit(1)
            self.computed.append(text)
            rows.append([len(ids), np.nan if text == "!nan" else float(sum(ids))])
        return np.array(rows, np.float32)


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def engine(encoder):
    made = EmbeddingEngine(
        encoder, FakeTokenizer(), Provenance("org/model", None, verified=True), token_budget=10
    )
    yield made
    encoder.gate.set()
    made.close()


def embed(engine, *texts, deadline=None, **options):
    deadline = deadline or Deadline(10)
    job = engine.submit(EmbedRequest(SPEC, texts, **options), deadline)
    return wait(job.future, deadline, job.abandon)


def test_rows_come_back_in_order_whatever_the_batches(engine):
    texts = ["ccc", "a", "bb", "dddddd", "", "eeee", "fffff", "g" * 8]
    reply = embed(engine, *texts)
    assert reply.vectors[:, 0].tolist() == [len(text) for text in texts]
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    assert (reply.prompt_tokens, reply.truncations) == (29, 0)


def test_truncation_is_counted_or_refused(engine):
    assert embed(engine, "a", "b" * 20, cut_texts=frozenset({0})).truncations == 2
    with pytest.raises(ContextLengthError, match="8 tokens") as caught:
        embed(engine, "a", "b" * 20, truncate=False)
    assert caught.value.argument == "texts[1]"


@pytest.mark.parametrize(
    ("poison", "error"),
    [
        ("!error", LocalEngineError),
        ("!memory", InsufficientMemoryError),
        ("!nan", LocalEngineError),
    ],
)
def test_a_poisoned_request_fails_alone(engine, poison, error):
    with pytest.raises(error):
        embed(engine, "a", poison)
    assert embed(engine, "a").vectors.shape == (1, 2)


def test_a_dying_thread_answers_everyone(engine, encoder):
    encoder.gate.clear()
    dying = engine.submit(EmbedRequest(SPEC, ("!exit",)), Deadline(10))
    assert encoder.entered.wait(10)
    waiting = [engine.submit(EmbedRequest(SPEC, ("a",)), Deadline(10)) for _ in range(5)]
    encoder.gate.set()
    for job in [dying, *waiting]:
        with pytest.raises(EngineClosedError):
            job.future.result(10)
    assert engine.is_closed
    with pytest.raises(EngineClosedError):
        embed(engine, "a")


def test_what_is_abandoned_while_queued_is_never_computed(engine, encoder):
    encoder.gate.clear()
    first = engine.submit(EmbedRequest(SPEC, ("first",)), Deadline(10))
    assert encoder.entered.wait(10)
    second = engine.submit(EmbedRequest(SPEC, ("second",)), Deadline(10))
    third = engine.submit(EmbedRequest(SPEC, ("third",)), Deadline(10))
    second.abandon()
    encoder.gate.set()
    first.future.result(10)
    third.future.result(10)
    assert encoder.computed == ["first", "third"]


def test_what_expires_while_queued_is_never_computed(engine, encoder, clock):
    encoder.gate.clear()
    first = engine.submit(EmbedRequest(SPEC, ("first",)), Deadline(10))
    assert encoder.entered.wait(10)
    late = engine.submit(EmbedRequest(SPEC, ("late",)), Deadline(5, clock=clock))
    clock.advance(6)
    encoder.gate.set()
    first.future.result(10)
    with pytest.raises(DeadlineExceededError):
        late.future.result(10)
    assert encoder.computed == ["first"]


def test_a_caller_never_waits_past_the_deadline(engine, encoder):
    encoder.gate.clear()
    with pytest.raises(DeadlineExceededError):
        embed(engine, "a", deadline=Deadline(0.05))


def test_a_cancelled_task_abandons_its_work(engine, encoder):
    encoder.gate.clear()
    blocker = engine.submit(EmbedRequest(SPEC, ("blocker",)), Deadline(10))
    assert encoder.entered.wait(10)

    async def main():
        deadline = Deadline(10)
        job = engine.submit(EmbedRequest(SPEC, ("unwanted",)), deadline)
        task = asyncio.create_task(wait_async(job.future, deadline, job.abandon))
        await asyncio.wait([task], timeout=0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    encoder.gate.set()
    blocker.future.result(10)
    embed(engine, "after")
    assert encoder.computed == ["blocker", "after"]


def test_closing_answers_everyone(engine, encoder):
    encoder.gate.clear()
    engine.submit(EmbedRequest(SPEC, ("running",)), Deadline(10))
    assert encoder.entered.wait(10)
    waiting = [engine.submit(EmbedRequest(SPEC, ("a",)), Deadline(10)) for _ in range(20)]
    closer = threading.Thread(target=engine.close)
    closer.start()
    for job in waiting:
        with pytest.raises(EngineClosedError):
            job.future.result(10)
    encoder.gate.set()
    closer.join(10)
    assert not closer.is_alive()


def test_closing_answers_the_running_request_and_ends_within_a_batch(engine, encoder):
    encoder.gate.clear()
    running = engine.submit(EmbedRequest(SPEC, ("aaaaaaaa", "bbbbbbbb", "cccccccc")), Deadline(10))
    assert encoder.entered.wait(10)
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(EngineClosedError):
        running.future.result(10)
    encoder.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert encoder.computed == ["aaaaaaaa"]


def test_a_full_queue_refuses_at_the_door():
    entered, gate = threading.Event(), threading.Event()

    class Blocker:
        def run(self):
            entered.set()
            gate.wait(10)

        def fail(self, error):
            pass

        def abandon(self):
            gate.set()

    worker = Worker("test-worker", max_jobs=2)
    worker.submit(Blocker())
    assert entered.wait(10)
    worker.submit(Blocker())
    worker.submit(Blocker())
    with pytest.raises(OverloadedError) as caught:
        worker.submit(Blocker())
    assert caught.value.retry_after > 0
    gate.set()
    worker.close()


def test_an_error_that_nobody_waits_for_is_not_reported(engine, encoder, caplog):
    encoder.gate.clear()
    unhandled = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, seen: unhandled.append(seen))
        deadline = Deadline(10)
        job = engine.submit(EmbedRequest(SPEC, ("!error",)), deadline)
        task = asyncio.create_task(wait_async(job.future, deadline, job.abandon))
        await asyncio.wait([task], timeout=0)
        assert await asyncio.to_thread(encoder.entered.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        encoder.gate.set()
        after = engine.submit(EmbedRequest(SPEC, ("after",)), deadline)
        await wait_async(after.future, deadline, after.abandon)

    asyncio.run(main())
    import gc

    gc.collect()
    assert unhandled == []
