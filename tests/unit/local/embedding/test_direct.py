"""A caller that computes its own short text on an idle engine: when, and what it loses by that: nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

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
)
from hybrid_infer.local.embedding.engine import EmbeddingEngine
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts
from hybrid_infer.local.embedding.tokens import Tokens

SPEC = ModelSpec("embeddings", "small", "org/model", None)
TROUBLE = {
    "!error": RuntimeError("boom"),
    "!memory": MemoryError(),
    "!ctrl-c": KeyboardInterrupt(),
}


class FakeTokenizer:
    max_seq_length = 8

    def __call__(self, texts):
        if "!break" in texts:
            raise RuntimeError("boom")
        ids = [[ord(c) for c in text][: self.max_seq_length] for text in texts]
        cut = [number for number, text in enumerate(texts) if len(text) > self.max_seq_length]
        return TokenizedTexts(Tokens.of(ids), cut)


class FakeEncoder:
    """One row per sequence, its sum; on whose thread each text was computed. Pads to the longest."""

    most_tokens = 16

    def __init__(self):
        self.direct = self._direct()
        self.threads = {}
        self.gates = {}
        self.entered = threading.Semaphore(0)

    def num_places(self, *, tokens, count, longest):
        return count * longest

    def _direct(self):
        encoder = self

        class Direct:
            most_tokens = encoder.most_tokens

            def __call__(self, sequences, *, normalize):
                rows = encoder.encode(sequences, normalize=normalize)
                return rows if np.isfinite(rows).all() else None

        return Direct()

    def encode(self, sequences, *, normalize):
        texts = ["".join(map(chr, ids)) for ids in sequences]
        self.threads.update(dict.fromkeys(texts, threading.current_thread()))
        self.entered.release()
        for text in texts:
            if text in self.gates:
                assert self.gates[text].wait(10)
            if text in TROUBLE:
                raise TROUBLE[text]
        return np.array(
            [[np.nan if text == "!nan" else sum(map(ord, text))] for text in texts], np.float32
        )


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def events():
    return []


@pytest.fixture
def engine(encoder, events):
    made = EmbeddingEngine(
        encoder,
        FakeTokenizer(),
        Provenance("org/model", None, verified=True),
        64,
        lane_threads=(1, 1),
        on_event=events.append,
    )
    yield made
    for gate in encoder.gates.values():
        gate.set()
    made.close()


def embed(engine, *texts, deadline=None, **options):
    return engine.embed(EmbedRequest(SPEC, texts, **options), deadline or Deadline(10))


def sums(texts):
    return [sum(map(ord, text)) for text in texts]


def test_a_short_text_on_an_idle_engine_is_computed_by_its_caller(engine, encoder, events):
    assert embed(engine, "a").vectors.tolist() == [[ord("a")]]
    assert encoder.threads == {"a": threading.current_thread()}
    assert [(event.rows, event.tokens, event.waiting) for event in events] == [(1, 1, 0)]
    assert events[0].queue_wait_seconds == (0.0,)
    assert not engine.is_busy


def test_several_short_texts_come_back_in_order_and_equal_ones_are_one(engine, encoder):
    texts = ["b", "aaa", "b", "cc"]
    reply = embed(engine, *texts, cut_texts=frozenset({0}))
    assert reply.vectors[:, 0].tolist() == sums(texts)
    assert (reply.prompt_tokens, reply.truncations) == (7, 1)
    assert set(encoder.threads.values()) == {threading.current_thread()}


@pytest.mark.parametrize("texts", [["aaaaaaaa", "bbbbbbbb", "c"], list("abcdefghi")])
def test_more_than_a_few_tokens_or_texts_are_computed_by_the_engines_threads(
    engine, encoder, texts
):
    assert embed(engine, *texts).vectors[:, 0].tolist() == sums(texts)
    assert threading.current_thread() not in encoder.threads.values()


def test_a_second_caller_is_not_kept_waiting(engine, encoder):
    encoder.gates["held"] = threading.Event()
    with ThreadPoolExecutor(1) as other:
        first = other.submit(embed, engine, "held")
        assert encoder.entered.acquire(timeout=10)
        assert engine.is_busy
        assert embed(engine, "free").vectors.tolist() == [sums(["free"])]
        assert encoder.threads["free"] is not threading.current_thread()
        encoder.gates["held"].set()
        assert first.result(10).vectors.tolist() == [sums(["held"])]
    assert encoder.threads["held"] is not encoder.threads["free"]


def test_a_caller_computes_nothing_while_others_wait(engine, encoder, until):
    encoder.gates["queued"] = threading.Event()
    queued = engine.submit(EmbedRequest(SPEC, ("queued",)), Deadline(10))
    assert encoder.entered.acquire(timeout=10)
    with ThreadPoolExecutor(1) as other:
        second = other.submit(embed, engine, "second")
        until(lambda: len(engine._scheduler._live) == 2)
        encoder.gates["queued"].set()
        assert second.result(10).vectors.tolist() == [sums(["second"])]
    assert queued.result(10).vectors.tolist() == [sums(["queued"])]
    assert encoder.threads["second"].name.startswith("hybrid-infer-embed")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("!error", LocalEngineError),
        ("!nan", LocalEngineError),
        ("!memory", InsufficientMemoryError),
        ("!break", LocalEngineError),
        ("", None),
        ("!ctrl-c", KeyboardInterrupt),
    ],
)
def test_what_fails_is_said_and_the_next_caller_computes_again(engine, encoder, text, error):
    if error is None:
        assert embed(engine, text).vectors.tolist() == [[0]]
    else:
        with pytest.raises(error):
            embed(engine, text)
    embed(engine, "after")
    assert encoder.threads["after"] is threading.current_thread()


def test_a_text_that_may_not_be_cut_is_refused(engine, encoder):
    with pytest.raises(ContextLengthError, match="8 tokens"):
        embed(engine, "a" * 9, truncate=False)
    assert embed(engine, "a" * 9).truncations == 1


def test_nothing_is_computed_behind_the_deadline(engine, encoder, clock):
    late = Deadline(1, clock=clock)
    clock.advance(1)
    with pytest.raises(DeadlineExceededError):
        embed(engine, "late", deadline=late)
    assert encoder.threads == {}


def test_progress_renews_the_deadline(engine, encoder, clock):
    deadline = Deadline(5, renewable=True, clock=clock)
    clock.advance(3)
    embed(engine, "a", deadline=deadline)
    assert deadline.left() == 5


def test_a_closed_or_forked_engine_computes_nothing(engine, encoder):
    engine._scheduler._crew._process -= 1  # what a child of this process would see
    with pytest.raises(EngineClosedError, match="fork"):
        embed(engine, "a")
    engine._scheduler._crew._process += 1
    engine.close()
    with pytest.raises(EngineClosedError, match="closed"):
        embed(engine, "a")
    assert encoder.threads == {}


def test_an_empty_request_is_refused(engine):
    with pytest.raises(LocalEngineError, match="nothing"):
        embed(engine)
    with pytest.raises(LocalEngineError, match="nothing"):
        engine.submit(EmbedRequest(SPEC, ()), Deadline(10)).result(10)
