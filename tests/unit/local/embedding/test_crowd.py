"""Requests of many callers that travel as one: each with its own row, its own error, its own end."""

import numpy as np
import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import ContextLengthError, LocalEngineError
from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.crowd import Crowd, take_wanted
from hybrid_infer.local.embedding.gathering import tokenize_jobs
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.runner import BatchRunner
from hybrid_infer.local.embedding.texts import RequestTexts
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts
from hybrid_infer.local.embedding.tokens import Tokens

SPEC = ModelSpec("embeddings", "small", "some/model", None)
PROVENANCE = Provenance("some/model", None, verified=False, dtype="float32")
LONGEST = 9


class Letters:
    """A tokenizer: a token for each letter, cut at `LONGEST`. It dies of an exclamation mark."""

    max_seq_length = LONGEST

    def __init__(self):
        self.calls = []

    def __call__(self, texts):
        self.calls.append(len(texts))
        if any("!" in text for text in texts):
            raise ValueError("an exclamation mark")
        cut = [number for number, text in enumerate(texts) if len(text) > LONGEST]
        return TokenizedTexts(Tokens.of([ord(c) for c in text[:LONGEST]] for text in texts), cut)


class Encoder:
    """A row is the sum of a sequence's ids. It dies of an x, and a z is not a number."""

    direct = None

    def encode(self, sequences, *, normalize):
        if any(ord("x") in ids for ids in sequences):
            raise RuntimeError("an x")
        sums = [np.nan if ord("z") in ids else float(ids.sum()) for ids in sequences]
        return np.array(sums, np.float32)[:, None] * (1 if normalize else 2)


def job(*texts, seconds=60.0, **options):
    request = EmbedRequest(SPEC, texts, **options)
    return EmbedJob(RequestTexts(request), Deadline(seconds), PROVENANCE)


def window_of(*jobs, left=None, tokenizer=None):
    window = Window()
    left = [] if left is None else left
    for owner, part in tokenize_jobs(tokenizer or Letters(), jobs, left.extend):
        add = window.add_crowd if isinstance(owner, Crowd) else window.add
        add(owner, owner.normalize, part, part.tokens.lengths)
    return window


def compute(window, budget=1000):
    late = []
    runner = BatchRunner(Encoder(), budget, PROVENANCE)
    while batch := take_wanted(window, budget, 1000, late):
        runner.run(batch, normalize=batch[0].owner.normalize)
    return late


def facts(reply):
    return reply.vectors.tolist(), reply.prompt_tokens, reply.truncations, reply.provenance


REQUESTS = (
    (("abc",), {}),
    (("b",), {"normalize": False}),
    (("a long one is cut",), {}),
    (("",), {}),
    (("cut before",), {"cut_texts": frozenset({0})}),
    (("many", "words", "many"), {}),
    (("cd",), {"normalize": False}),
    (("short",), {"cut_texts": frozenset({0})}),
)


@pytest.mark.parametrize("budget", [1000, 12, 1])
def test_each_has_the_answer_that_it_would_have_alone(budget):
    alone, together = ([job(*texts, **options) for texts, options in REQUESTS] for _ in range(2))
    for one in alone:
        compute(window_of(one))
    compute(window_of(*together), budget)
    for one, other in zip(alone, together, strict=True):
        assert facts(one.result(0)) == facts(other.result(0))
        assert other.result(0).vectors.base is None, "a view would keep the whole batch"


def test_they_are_tokenised_in_one_call_and_share_a_batch():
    tokenizer = Letters()
    window = window_of(*[job(text) for text in "abcd"], tokenizer=tokenizer)
    assert tokenizer.calls == [4]
    (share,) = take_wanted(window, 1000, 1000, [])
    assert isinstance(share.owner, Crowd)
    assert len(share) == 4


def test_who_comes_alone_is_no_crowd():
    one, other = job("a"), job("b", normalize=False)
    owners = [owner for owner, _ in tokenize_jobs(Letters(), [one, other], lambda _: None)]
    assert owners == [one, other]


def test_a_text_that_cannot_be_tokenised_fails_alone():
    good, bad, also_good = job("a"), job("b!"), job("c")
    compute(window_of(good, bad, also_good))
    with pytest.raises(LocalEngineError, match="tokenising"):
        bad.result(0)
    assert [one.result(0).vectors.item() for one in (good, also_good)] == [97.0, 99.0]


def test_a_text_that_may_not_be_cut_fails_alone():
    good, bad, cut = job("a"), job("a" * 10, truncate=False), job("a" * 10)
    compute(window_of(good, bad, cut))
    with pytest.raises(ContextLengthError, match=r"texts\[0\] has more than the 9 tokens"):
        bad.result(0)
    assert [one.result(0).truncations for one in (good, cut)] == [0, 1]


@pytest.mark.parametrize("letter", ["x", "z"])
@pytest.mark.parametrize("place", range(5))
def test_a_text_that_cannot_be_computed_fails_alone(letter, place):
    texts = list("abcde")
    texts[place] = letter
    jobs = [job(text) for text in texts]
    compute(window_of(*jobs))
    with pytest.raises(LocalEngineError):
        jobs.pop(place).result(0)
    for text, one in zip(filter(letter.__ne__, texts), jobs, strict=True):
        assert one.result(0).vectors.item() == ord(text)


def test_who_has_left_or_is_late_is_not_computed():
    stays, leaves, late = job("a"), job("b"), job("c", seconds=-1.0)
    window = window_of(stays, leaves, late)
    leaves.cancel()
    found = []
    (share,) = take_wanted(window, 1000, 1000, found)
    assert share.owner.members(share.places) == [stays]
    assert share.tokens == 1
    assert found == [late]


def test_a_crowd_that_has_left_is_no_batch_and_what_is_behind_it_is():
    gone, here = [job("a"), job("b")], job("several", "texts")
    window = window_of(*gone, here)
    for one in gone:
        one.cancel()
    (share,) = take_wanted(window, 2, 1000, [])
    assert share.owner is here
    window = window_of(job("a", seconds=-1.0), job("b", seconds=-1.0))
    assert take_wanted(window, 1, 1000, []) == []
    assert not window


def test_those_who_have_their_answers_leave_together_before_anybody_is_told():
    left, told = [], []
    jobs = [job(text) for text in "abc"]
    window = window_of(*jobs, left=left)
    (batch,) = [take_wanted(window, 1000, 1000, [])]
    for one in jobs:
        one.add_done_callback(lambda done: told.append((done, len(left))))
    jobs[1].cancel()
    BatchRunner(Encoder(), 1000, PROVENANCE).run(batch, normalize=True)
    assert left == [jobs[0], jobs[2]]
    assert told == [(jobs[1], 0), (jobs[0], 2), (jobs[2], 2)]


def test_a_callback_that_raises_keeps_nobody_from_being_told():
    jobs, told = [job(text) for text in "abc"], []
    window = window_of(*jobs)
    jobs[0].add_done_callback(lambda _: 1 / 0)
    for one in jobs:
        one.add_done_callback(told.append)
    with pytest.raises(ZeroDivisionError):
        compute(window)
    assert told == jobs
    assert all(one.done() for one in jobs)


def test_a_reply_that_cannot_be_made_leaves_all_to_be_failed(monkeypatch):
    jobs = [job(text) for text in "abc"]
    window = window_of(*jobs)
    monkeypatch.setattr(jobs[1].texts, "request", None)
    with pytest.raises(AttributeError):
        compute(window)
    assert not any(one.done() for one in jobs)


def test_who_has_an_answer_holds_no_queue():
    class Queue:
        def leave(self, job):
            raise AssertionError(job)

    jobs = [job(text) for text in "abc"]
    for one in jobs:
        one.queue = Queue()
    compute(window_of(*jobs))
    assert [one.queue for one in jobs] == [None] * 3
