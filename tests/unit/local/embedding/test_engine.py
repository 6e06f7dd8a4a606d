"""The engine on fakes gated by events: order, poison, cancellation, death, shutdown."""

import asyncio
import gc
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

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
from hybrid_infer.local.embedding import runner
from hybrid_infer.local.embedding.engine import EmbeddingEngine
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.waiting import wait, wait_async

SPEC = ModelSpec("embeddings", "small", "org/model", None)


class FakeTokenizer:
    max_seq_length = 8

    def __init__(self):
        self.slices = []

    def __call__(self, texts):
        self.slices.append(list(texts))
        if "!tokenizer" in texts:
            raise RuntimeError("boom")
        if "!exit while tokenising" in texts:
            raise SystemExit(1)
        ids = [[ord(c) for c in text][: self.max_seq_length] for text in texts]
        cut = [number for number, text in enumerate(texts) if len(text) > self.max_seq_length]
        return TokenizedTexts(Tokens.of(ids), cut)


class FakeEncoder:
    """One row per sequence: its length and its sum. Texts starting with ! are trouble."""

    direct = None

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.computed = []
        self.batches = []
        self.capacity = math.inf

    def num_places(self, *, tokens, count, longest):
        return count * longest

    def encode(self, sequences, *, normalize):
        self.entered.set()
        assert self.gate.wait(10)
        texts = ["".join(map(chr, ids)) for ids in sequences]
        self.batches.append(texts)
        if sum(map(len, texts)) > self.capacity:
            raise torch.OutOfMemoryError("tried to allocate too much")
        for text in texts:
            if text in TROUBLE:
                raise TROUBLE[text]
        self.computed += texts
        return np.array(
            [[len(text), np.nan if text == "!nan" else sum(map(ord, text))] for text in texts],
            np.float32,
        )


TROUBLE = {
    "!error": RuntimeError("boom"),
    "!memory": MemoryError(),
    "!cpu": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    "!exit": SystemExit(1),
    "!device": RuntimeError("CUDA error: device-side assert triggered"),
}


def make_engine(encoder, tokenizer=None, **options):
    return EmbeddingEngine(
        encoder,
        tokenizer or FakeTokenizer(),
        Provenance("org/model", None, verified=True),
        **{"token_budget": 10} | options,
    )


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def engine(encoder, clock):
    made = make_engine(encoder, clock=clock)
    yield made
    encoder.gate.set()
    made.close()


def submit(engine, *texts, deadline=None, **options):
    return engine.submit(EmbedRequest(SPEC, texts, **options), deadline or Deadline(10))


def embed(engine, *texts, deadline=None, **options):
    deadline = deadline or Deadline(10)
    job = engine.submit(EmbedRequest(SPEC, texts, **options), deadline)
    return wait(job, deadline)


def test_rows_come_back_in_order_whatever_the_batches(engine):
    texts = ["ccc", "a", "bb", "dddddd", "", "eeee", "fffff", "g" * 8]
    reply = embed(engine, *texts)
    assert reply.vectors[:, 0].tolist() == [len(text) for text in texts]
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    assert (reply.prompt_tokens, reply.truncations) == (29, 0)


def test_batches_tell_waits_padding_and_tokenising_once(encoder, clock):
    class Slow(FakeTokenizer):
        def __call__(self, texts):
            clock.advance(len(texts))
            return super().__call__(texts)

    events = []
    engine = make_engine(encoder, Slow(), clock=clock, on_event=events.append)
    encoder.gate.clear()
    first = submit(engine, "aaaa")
    assert encoder.entered.wait(10)
    rest = [submit(engine, "bbbb", "cc", "d"), submit(engine, "eeee", "ff", "g")]
    clock.advance(10)
    encoder.gate.set()
    for job in [first, *rest]:
        job.result(10)
    engine.close()
    told = [(e.queue_wait_seconds, e.padded_tokens, e.tokenize_seconds) for e in events]
    # Seven texts took a second each to tokenise, six of them while the first was computed. The next
    # batch is the first of both calls, the last one of neither.
    assert told[0] == ((0.0,), 0, 7.0)
    assert sorted(told[1][0]) == [10.0, 13.0]
    assert sum(e.rows for e in events[1:]) == 6
    assert all(waits == () and seconds == 0.0 for waits, _, seconds in told[2:])
    assert all(e.padded_tokens == 4 * e.rows - e.tokens for e in events[:2])


def test_truncation_is_counted_or_refused(engine):
    assert embed(engine, "a", "b" * 20, cut_texts=frozenset({0})).truncations == 2
    with pytest.raises(ContextLengthError, match="8 tokens") as caught:
        embed(engine, "a", "b" * 20, truncate=False)
    assert caught.value.__cause__ is not caught.value
    assert caught.value.argument == "texts[1]"


@pytest.mark.parametrize(
    ("poison", "error"),
    [
        ("!error", LocalEngineError),
        ("!memory", InsufficientMemoryError),
        ("!cpu", InsufficientMemoryError),
        ("!nan", LocalEngineError),
    ],
)
def test_a_poisoned_request_fails_alone(engine, poison, error):
    with pytest.raises(error):
        embed(engine, "a", poison)
    assert embed(engine, "a").vectors.shape == (1, 2)


def test_errors_are_no_progress(engine, clock):
    for text in (
        "!error",
        "!nan",
        "!error",
    ):  # when one ends, the batch of the one before it is over
        with pytest.raises(LocalEngineError):
            embed(engine, text)
    assert engine.computed_seconds is None
    embed(engine, "a")
    embed(engine, "b")
    clock.advance(3)
    assert engine.computed_seconds == 3


def behind_a_blocker(engine, encoder, texts):
    """Jobs of one text each that all wait when the first batch ends."""
    encoder.gate.clear()
    blocker = submit(engine, "blocker")
    assert encoder.entered.wait(10)
    jobs = [submit(engine, text) for text in texts]
    encoder.gate.set()
    blocker.result(10)
    return jobs


def test_callers_share_batches(encoder):
    engine = make_engine(encoder, token_budget=8192)
    texts = [f"text {index:02}" for index in range(64)]
    jobs = behind_a_blocker(engine, encoder, texts)
    sums = [job.result(10).vectors[0, 1] for job in jobs]
    assert sums == [sum(map(ord, text)) for text in texts]
    assert encoder.batches == [["blocker"], texts]
    engine.close()


def test_a_crowd_is_tokenised_together(encoder):
    tokenizer = FakeTokenizer()
    engine = make_engine(encoder, tokenizer, token_budget=8192)
    texts = [f"text {index:02}" for index in range(64)]
    for job in behind_a_blocker(engine, encoder, texts):
        job.result(10)
    assert [text for part in tokenizer.slices for text in part] == ["blocker", *texts]
    assert [len(part) for part in tokenizer.slices[:8]] == [1] * 8  # no crowd yet
    assert len(tokenizer.slices) < len(texts)
    engine.close()


@pytest.mark.parametrize("position", [0, 31, 63])
@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("!tokenizer", {}, LocalEngineError),
        ("long" * 9, {"truncate": False}, ContextLengthError),
        ("late", {"deadline": Deadline(0)}, DeadlineExceededError),
    ],
)
def test_one_that_cannot_be_tokenised_in_a_crowd_fails_alone(
    encoder, position, text, options, error
):
    engine = make_engine(encoder, token_budget=8192)
    encoder.gate.clear()
    blocker = submit(engine, "blocker")
    assert encoder.entered.wait(10)
    jobs = [
        submit(engine, text, **options) if index == position else submit(engine, f"{index}")
        for index in range(64)
    ]
    encoder.gate.set()
    blocker.result(10)
    for index, job in enumerate(jobs):
        if index == position:
            with pytest.raises(error):
                job.result(10)
        else:
            assert job.result(10).vectors[0, 0] == len(str(index))
    engine.close()


def test_a_lane_does_not_wait_for_the_tokens_of_those_who_have_left(encoder):
    held = threading.Event()

    class Slow(FakeTokenizer):
        def __call__(self, texts):
            if "slow" in texts:
                assert held.wait(10)
            return super().__call__(texts)

    engine = make_engine(encoder, Slow(), token_budget=8192)
    encoder.gate.clear()
    jobs = [submit(engine, f"{index}") for index in range(9)]
    slow = submit(engine, "slow")
    left = [submit(engine, f"left {index}") for index in range(9)]
    encoder.gate.set()
    for job in left:
        job.cancel()
    held.set()
    for job in [*jobs, slow]:
        assert job.result(10).vectors.shape == (1, 2)
    assert not any(text.startswith("left") for text in encoder.computed)
    engine.close()


@pytest.mark.parametrize("position", [0, 1, 16, 30, 31])
@pytest.mark.parametrize("poison", ["!error", "!nan"])
def test_only_the_poisoned_caller_of_a_shared_batch_fails(encoder, poison, position):
    engine = make_engine(encoder, token_budget=8192)
    texts = [f"t{index:05}" for index in range(32)]
    texts[position] = poison
    jobs = behind_a_blocker(engine, encoder, texts)
    for text, job in zip(texts, jobs, strict=True):
        if text == poison:
            with pytest.raises(LocalEngineError):
                job.result(10)
        else:
            assert job.result(10).vectors[0, 1] == sum(map(ord, text))
    assert len(encoder.batches) - 2 <= 2 * 5 + 1
    engine.close()


def test_out_of_memory_halves_the_budget_which_grows_again_slowly(encoder):
    engine = make_engine(encoder, token_budget=64)
    encoder.capacity = 20
    texts = [f"x{index:03}" for index in range(64)]
    assert embed(engine, *texts).vectors[:, 0].tolist() == [4] * 64
    fitting = [batch for batch in encoder.batches if len(batch) <= 5]
    assert len(encoder.batches) - len(fitting) <= 3
    encoder.capacity, encoder.batches = math.inf, []
    embed(engine, *[f"y{index:04}" for index in range(1600)])
    sizes = [len(batch) for batch in encoder.batches]
    assert max(sizes[:40]) == 16 // 5
    assert max(sizes[:100]) == 32 // 5
    assert max(sizes) == 64 // 5
    engine.close()


def test_what_did_not_fit_is_gone_before_memory_is_released(monkeypatch):
    """Not even by the error that its caller keeps is it held."""

    class Activations:
        pass

    held = []

    class Hungry(FakeEncoder):
        def encode(self, sequences, *, normalize):
            activations = Activations()
            held.append(weakref.ref(activations))
            return super().encode(sequences, normalize=normalize)

    left = []
    monkeypatch.setattr(
        runner, "_release_cached_memory", lambda: left.append([each() for each in held])
    )
    encoder = Hungry()
    encoder.capacity = 5
    engine = make_engine(encoder)
    with pytest.raises(InsufficientMemoryError) as caught:
        embed(engine, "toolong")
    assert caught.value.__cause__ is not None
    assert left == [[None]]
    engine.close()


def test_a_text_that_does_not_fit_alone_leaves_the_budget_as_it_is(engine, encoder):
    encoder.capacity = 5
    with pytest.raises(InsufficientMemoryError):
        embed(engine, "toolong")
    encoder.capacity = math.inf
    embed(engine, "aaaaa", "bbbbb")
    assert encoder.batches[-1] == ["aaaaa", "bbbbb"]


def test_a_lost_device_closes_the_engine(engine, caplog):
    with pytest.raises(EngineClosedError, match="device"):
        embed(engine, "!device")
    assert engine.is_closed
    with pytest.raises(EngineClosedError):
        embed(engine, "a")


def test_a_dying_thread_answers_its_callers_and_is_replaced(engine, encoder, caplog):
    jobs = behind_a_blocker(engine, encoder, ["!exit", "aaaaaaaa", "bbbbbbbb"])
    with pytest.raises(EngineClosedError, match="SystemExit"):
        jobs[0].result(10)
    assert jobs[1].result(10).vectors[0, 0] == 8
    assert jobs[2].result(10).vectors[0, 0] == 8
    assert not engine.is_closed


def test_a_thread_that_dies_too_often_closes_the_engine(engine, encoder, clock, caplog):
    for _ in range(3):
        with pytest.raises(EngineClosedError):
            embed(engine, "!exit")
    clock.advance(60)
    for _ in range(3):
        with pytest.raises(EngineClosedError):
            embed(engine, "!exit")
    assert embed(engine, "a").vectors.shape == (1, 2)
    jobs = behind_a_blocker(engine, encoder, ["!exit", "aaaaaaaa", "bbbbbbbb"])
    for job in jobs:
        with pytest.raises(EngineClosedError):
            job.result(10)
    assert engine.is_closed
    with pytest.raises(EngineClosedError):
        embed(engine, "a")


def test_a_tokenising_thread_that_dies_is_replaced_too(engine, caplog):
    texts = [f"{index}" for index in range(20)]
    with pytest.raises(EngineClosedError, match="tokenize thread"):
        embed(engine, *texts, "!exit while tokenising")
    assert embed(engine, *texts).vectors.shape == (20, 2)


def test_a_text_that_the_tokenizer_fails_on_fails_alone(engine):
    for texts in (["a", "!tokenizer"], [f"{index}" for index in range(20)] + ["!tokenizer"]):
        with pytest.raises(LocalEngineError, match="tokenising"):
            embed(engine, *texts)
    assert embed(engine, "a").vectors.shape == (1, 2)


def test_equal_texts_are_computed_once_and_all_counted(engine, encoder):
    texts = ["aa", "b", "aa", "c" * 20, "aa", "c" * 20] + ["b"] * 30
    reply = embed(engine, *texts, cut_texts=frozenset({1, 3}))
    assert sorted(encoder.computed) == ["aa", "b", "c" * 8]
    assert reply.vectors[:, 0].tolist() == [min(len(text), 8) for text in texts]
    assert reply.prompt_tokens == 3 * 2 + 2 * 8 + 31
    assert reply.truncations == 3


def test_a_large_request_is_tokenised_in_slices_and_comes_back_in_order(encoder):
    engine = make_engine(encoder, token_budget=100)
    texts = [f"{index:04}"[: 1 + index % 8] + "xyz"[: index % 3] for index in range(5_000)]
    reply = embed(engine, *texts)
    assert reply.vectors[:, 1].tolist() == [sum(map(ord, text)) for text in texts]
    engine.close()


def test_a_query_behind_a_bulk_job_waits_for_the_running_batch_only(encoder):
    engine = make_engine(encoder, token_budget=64)
    encoder.gate.clear()
    bulk = submit(engine, *[f"b{index:06}" for index in range(3_000)])
    assert encoder.entered.wait(10)
    query = submit(engine, "query")
    encoder.gate.set()
    query.result(10)
    bulk.result(10)
    assert "query" in encoder.batches[1]
    engine.close()


def test_texts_that_may_not_share_a_batch_do_not(engine, encoder):
    encoder.gate.clear()
    first = submit(engine, "first")
    assert encoder.entered.wait(10)
    jobs = [submit(engine, text, normalize=text in "ac") for text in "abc"]
    encoder.gate.set()
    for job in [first, *jobs]:
        job.result(10)
    assert encoder.batches[1:] == [["a", "c"], ["b"]]


def test_every_batch_renews_the_deadline(encoder, clock):
    class Slow(FakeEncoder):
        def encode(self, sequences, *, normalize):
            clock.advance(4)
            return super().encode(sequences, normalize=normalize)

    engine = make_engine(Slow(), clock=clock)
    texts = ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
    deadline = Deadline(5, renewable=True, clock=clock)
    assert submit(engine, *texts, deadline=deadline).result(10).vectors.shape == (3, 2)
    with pytest.raises(DeadlineExceededError):
        submit(engine, *texts, deadline=Deadline(5, clock=clock)).result(10)
    engine.close()


@pytest.mark.parametrize(
    ("limits", "texts"),
    [({"max_texts": 3}, ["a", "b"]), ({"max_tokens": 20}, ["aaaaaaaa", "bbbbbbbb"])],
)
def test_a_full_queue_refuses_at_the_door_and_says_when_to_come_back(encoder, clock, limits, texts):
    class Timed(FakeEncoder):
        def encode(self, sequences, *, normalize):
            clock.advance(2)
            return super().encode(sequences, normalize=normalize)

    encoder = Timed()
    engine = make_engine(encoder, clock=clock, **limits)
    embed(engine, "cccccccc")  # 8 tokens in 2 s
    encoder.gate.clear()
    encoder.entered.clear()
    running = submit(engine, *texts)
    assert encoder.entered.wait(10)
    with pytest.raises(OverloadedError) as caught:
        submit(engine, *texts)
    assert caught.value.retry_after == pytest.approx(sum(map(len, texts)) / 4)
    encoder.gate.set()
    running.result(10)
    embed(engine, *texts)
    engine.close()


def test_a_request_larger_than_the_queue_is_served_when_nothing_waits(encoder):
    engine = make_engine(encoder, max_texts=3)
    assert embed(engine, *"abcdef").vectors.shape == (6, 2)
    engine.close()


def test_what_is_left_alone_leaves_no_trace(encoder):
    engine = make_engine(encoder, max_texts=5)
    encoder.gate.clear()
    running = submit(engine, "running")
    assert encoder.entered.wait(10)
    for _ in range(50):
        submit(engine, *"abcd").cancel()
    encoder.gate.set()
    running.result(10)
    embed(engine, *"abcde")
    scheduler = engine._scheduler
    admission = scheduler._live._admission
    assert (admission.texts, admission.tokens) == (0, 0)
    assert not scheduler._live
    assert not scheduler._window
    engine.close()


def test_a_forked_child_is_told_so(engine):
    embed(engine, "a")
    engine._scheduler._crew._process -= 1  # what a child of this process would see
    assert engine.is_closed
    with pytest.raises(EngineClosedError, match="fork"):
        embed(engine, "a")
    engine.close()
    engine._scheduler._crew._process += 1


def test_a_system_without_threads_is_an_overload(engine, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OverloadedError, match="thread"):
            submit(engine, "a")
    assert embed(engine, "a").vectors.shape == (1, 2)


def test_many_threads_get_their_own_rows(encoder):
    engine = make_engine(encoder, token_budget=200)

    def ask(number):
        texts = [f"{number} {index}"[: 1 + index % 7] for index in range(number % 13 + 1)]
        return embed(engine, *texts).vectors[:, 1].tolist() == [
            sum(map(ord, text)) for text in texts
        ]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))
    engine.close()


def test_what_is_abandoned_while_queued_is_never_computed(engine, encoder):
    encoder.gate.clear()
    first = engine.submit(EmbedRequest(SPEC, ("first",)), Deadline(10))
    assert encoder.entered.wait(10)
    second = engine.submit(EmbedRequest(SPEC, ("second",)), Deadline(10))
    third = engine.submit(EmbedRequest(SPEC, ("third",)), Deadline(10))
    second.cancel()
    encoder.gate.set()
    first.result(10)
    third.result(10)
    assert encoder.computed == ["first", "third"]


def test_what_expires_while_queued_is_never_computed(engine, encoder, clock):
    encoder.gate.clear()
    first = engine.submit(EmbedRequest(SPEC, ("first",)), Deadline(10))
    assert encoder.entered.wait(10)
    late = engine.submit(EmbedRequest(SPEC, ("late",)), Deadline(5, clock=clock))
    clock.advance(6)
    encoder.gate.set()
    first.result(10)
    with pytest.raises(DeadlineExceededError):
        late.result(10)
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
        task = asyncio.create_task(wait_async(job, deadline))
        await asyncio.wait([task], timeout=0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    encoder.gate.set()
    blocker.result(10)
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
            job.result(10)
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
        running.result(10)
    encoder.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert encoder.computed == ["aaaaaaaa"]


def test_an_error_that_nobody_waits_for_is_not_reported(engine, encoder, caplog):
    encoder.gate.clear()
    unhandled = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, seen: unhandled.append(seen))
        deadline = Deadline(10)
        job = engine.submit(EmbedRequest(SPEC, ("!error",)), deadline)
        task = asyncio.create_task(wait_async(job, deadline))
        await asyncio.wait([task], timeout=0)
        assert await asyncio.to_thread(encoder.entered.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        encoder.gate.set()
        after = engine.submit(EmbedRequest(SPEC, ("after",)), deadline)
        await wait_async(after, deadline)

    asyncio.run(main())
    gc.collect()
    assert unhandled == []


def test_a_batch_that_does_not_end_sends_new_calls_elsewhere_until_it_ends(engine, encoder, clock):
    embed(engine, "warm")
    encoder.gate.clear()
    encoder.entered.clear()
    hung = submit(engine, "hung")
    assert encoder.entered.wait(10)
    waiting = Deadline(5, clock=clock)
    late = submit(engine, "late", deadline=waiting)
    clock.advance(30)
    in_time = submit(engine, "in time")
    clock.advance(1)
    with pytest.raises(OverloadedError, match="stuck: a batch has run for 31 s") as caught:
        submit(engine, "a")
    assert caught.value.retry_after == 30
    with pytest.raises(DeadlineExceededError):
        wait(late, waiting)
    encoder.gate.set()
    assert hung.result(10).vectors.shape == (1, 2)
    # Of the next batch: by now the other is known to be over.
    assert in_time.result(10).vectors.shape == (1, 2)
    assert embed(engine, "b").vectors.shape == (1, 2)


def test_slow_batches_are_not_taken_for_hung_ones(encoder, clock):
    class Slow(FakeEncoder):
        def encode(self, sequences, *, normalize):
            rows = super().encode(sequences, normalize=normalize)
            clock.advance(10)
            return rows

    encoder = Slow()
    engine = make_engine(encoder, clock=clock)
    embed(engine, "10 s")
    encoder.gate.clear()
    encoder.entered.clear()
    running = submit(engine, "running")
    assert encoder.entered.wait(10)
    clock.advance(199)
    accepted = submit(engine, "accepted")
    encoder.gate.set()
    assert running.result(10).vectors.shape == (1, 2)
    assert accepted.result(10).vectors.shape == (1, 2)
    engine.close()
