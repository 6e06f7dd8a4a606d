"""Batches side by side: who computes where, on how many cores, and one request across lanes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import EngineClosedError
from hybrid_infer.local.embedding import lanes
from hybrid_infer.local.embedding.engine import EmbeddingEngine
from hybrid_infer.local.embedding.lanes import (
    CUDA_LANES,
    LEAST_TOKENS,
    lane_threads,
    set_own_threads,
    share_of,
    split_cores,
)
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts
from hybrid_infer.local.embedding.tokens import Tokens

SPEC = ModelSpec("embeddings", "small", "org/model", None)


class FakeTokenizer:
    max_seq_length = 8

    def __call__(self, texts):
        return TokenizedTexts(Tokens.of([ord(c) for c in text] for text in texts), ())


class FakeEncoder:
    """One row per sequence, its sum, and in which lane; it may wait for company or die."""

    direct = None

    def __init__(self):
        self.gates = {}
        self.entered = threading.Semaphore(0)
        self.meeting = None
        self.lanes = []

    def encode(self, sequences, *, normalize):
        texts = ["".join(map(chr, ids)) for ids in sequences]
        self.lanes.append((int(threading.current_thread().name[-1]), torch.get_num_threads()))
        self.entered.release()
        for text in texts:
            if text in self.gates:
                assert self.gates[text].wait(10)
            if text == "!exit":
                raise SystemExit(1)
        if self.meeting is not None:
            self.meeting.wait(10)
        return np.array([[sum(ids)] for ids in sequences], np.float32)


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def engine(encoder):
    provenance = Provenance("org/model", None, verified=True)
    made = EmbeddingEngine(encoder, FakeTokenizer(), provenance, 64, lane_threads=(1, 1))
    yield made
    for gate in encoder.gates.values():
        gate.set()
    made.close()


def submit(engine, *texts):
    return engine.submit(EmbedRequest(SPEC, texts), Deadline(10))


def sums(texts):
    return [sum(map(ord, text)) for text in texts]


def test_one_text_alone_gets_all_cores(engine, encoder):
    for text in ("a", "b"):
        assert submit(engine, text).result(10).vectors[0, 0] == ord(text)
    assert encoder.lanes == [(0, torch.get_num_threads())] * 2


def test_one_request_is_computed_in_both_lanes_at_once(engine, encoder):
    encoder.meeting = threading.Barrier(2)
    texts = ["aaaa", "bbbb"]
    assert submit(engine, *texts).result(10).vectors[:, 0].tolist() == sums(texts)
    assert sorted(encoder.lanes) == [(1, 1), (2, 1)]


def test_rows_from_both_lanes_keep_their_order(engine):
    texts = [f"{index:05}"[: 1 + index % 5] for index in range(4_000)]
    assert submit(engine, *texts).result(10).vectors[:, 0].tolist() == sums(texts)


def test_a_lane_that_is_held_up_holds_nobody_else_up(engine, encoder):
    encoder.gates["held"] = threading.Event()
    first = submit(engine, "held", "free")
    assert encoder.entered.acquire(timeout=10)
    for text in ("next", "more"):
        assert submit(engine, text).result(10).vectors[0, 0] == sums([text])[0]
    assert not first.done()
    encoder.gates["held"].set()
    assert first.result(10).vectors[:, 0].tolist() == sums(["held", "free"])


def test_the_lanes_leave_the_cores_to_a_text_that_came_alone(engine, encoder):
    encoder.gates = {text: threading.Event() for text in ("alone", "b", "c")}
    alone = submit(engine, "alone")
    assert encoder.entered.acquire(timeout=10)
    later = [submit(engine, text) for text in ("b", "c")]
    assert not encoder.entered.acquire(blocking=False)
    encoder.gates["alone"].set()
    for _ in later:
        assert encoder.entered.acquire(timeout=10)
    encoder.gates["b"].set()
    encoder.gates["c"].set()
    assert [future.result(10).vectors[0, 0] for future in (alone, *later)] == sums(
        ["alone", "b", "c"]
    )
    assert encoder.lanes[0][0] == 0
    assert sorted(encoder.lanes[1:]) == [(1, 1), (2, 1)]


def test_a_lane_that_dies_is_replaced_on_its_share_of_the_cores(engine, encoder, caplog):
    with pytest.raises(EngineClosedError, match=r"compute-[12] thread"):
        submit(engine, "!exit", "a").result(10)
    encoder.lanes.clear()
    encoder.meeting = threading.Barrier(2)
    submit(engine, "aaaa", "bbbb").result(10)
    assert sorted(encoder.lanes) == [(1, 1), (2, 1)]


def test_many_callers_get_their_own_rows(engine):
    def ask(number):
        texts = [f"{number} {index}"[: 1 + index % 7] for index in range(number % 13 + 1)]
        return submit(engine, *texts).result(10).vectors[:, 0].tolist() == sums(texts)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))


def test_limiting_one_thread_limits_no_other():
    usual = torch.get_num_threads()
    with ThreadPoolExecutor(1) as limited, ThreadPoolExecutor(1) as other:
        limited.submit(set_own_threads, 1).result()
        assert limited.submit(torch.get_num_threads).result() == 1
        assert other.submit(torch.get_num_threads).result() == usual
    assert torch.get_num_threads() == usual


@pytest.mark.parametrize(
    ("waiting", "idle", "share", "in_a_crowd"),
    [
        (10, 2, 5, 5),  # nobody computes: each takes its part
        (11, 2, 6, 6),
        (4_000, 2, 2_000, LEAST_TOKENS),
        (10, 1, LEAST_TOKENS, LEAST_TOKENS),  # the other computes: a batch that is worth it
        (2 * LEAST_TOKENS, 1, LEAST_TOKENS, LEAST_TOKENS),
        (3 * LEAST_TOKENS, 1, 3 * LEAST_TOKENS // 2, LEAST_TOKENS),
    ],
)
def test_a_lane_leaves_something_for_the_others(waiting, idle, share, in_a_crowd):
    assert share_of(waiting, idle, 2, is_crowded=False) == share
    assert share_of(waiting, idle, 2, is_crowded=True) == in_a_crowd


def test_lanes_are_for_cpus_with_a_core_for_each(monkeypatch):
    assert lanes._is_openmp_at_hand()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert lane_threads("cpu", 4_096) == (1, 1)
    assert lane_threads("mps", 4_096) == ()
    assert lane_threads("cuda:1", 64) == (None,) * CUDA_LANES
    with monkeypatch.context() as patch:
        patch.setattr(lanes, "_is_openmp_at_hand", lambda: False)
        assert lane_threads("cpu", 4_096) == ()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert lane_threads("cpu", 4_096) == ()


@pytest.mark.parametrize(
    ("cores", "token_budget", "threads"),
    [
        (1, 4_096, ()),
        (2, 4_096, (1, 1)),
        (3, 4_096, (1, 1, 1)),
        (4, 4_096, (1, 1, 1, 1)),
        (6, 4_096, (2, 2, 1, 1)),
        (16, 4_096, (4, 4, 4, 4)),
        (16, 16_384, (1,) * 16),
        (64, 8_192, (8,) * 8),
        (16, 2_047, ()),
        (16, 64, ()),
    ],
)
def test_cores_are_shared_among_lanes_whose_batches_stay_large(cores, token_budget, threads):
    assert split_cores(cores, token_budget) == threads


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_openmp_at_hand_there_are_no_lanes(monkeypatch, error):
    def missing():
        raise error("no such library")

    monkeypatch.setattr(lanes, "_openmp", missing)
    assert not lanes._is_openmp_at_hand.__wrapped__()
