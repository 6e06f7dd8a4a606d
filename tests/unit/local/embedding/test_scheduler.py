"""The scheduler alone, with requests that are only counted: who wakes whom."""

import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.scheduler import CROWD, Scheduler
from hybrid_infer.local.embedding.texts import Slice
from hybrid_infer.local.embedding.tokens import Tokens

PATIENCE_SECONDS = 20.0
NO_IDS = np.empty(0, np.int32)  # nobody looks at them


class Runner:
    """Holds its first batch back until it is told; then answers everybody."""

    token_budget = 4096

    def __init__(self):
        self.entered, self.gate = threading.Event(), threading.Event()

    def prepare(self):
        pass

    def run(self, batch, *, normalize):
        self.entered.set()
        assert self.gate.wait(PATIENCE_SECONDS)
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
    )
    return EmbedJob(texts, Deadline(PATIENCE_SECONDS), None)


def tokenize(jobs):
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


def until_nobody_is_hungry(scheduler):
    pause = threading.Event()
    while True:
        with scheduler._lock:
            if not scheduler._hungry() and "tokenize" not in scheduler._busy_with:
                return
        pause.wait(0.001)


def test_those_who_leave_wake_the_tokeniser_for_those_who_stay(scheduler, runner):
    """Each of forty holds its fortieth of what is tokenised ahead; then thirty-nine leave."""
    scheduler.submit(job(1, 5), Slice([0], Tokens(NO_IDS, [5])))
    assert runner.entered.wait(PATIENCE_SECONDS)
    long = [job(30, 210) for _ in range(40)]
    short = [job(1, 5) for _ in range(8)]
    for one in (*long, *short):
        scheduler.submit(one, None)
    until_nobody_is_hungry(scheduler)
    with scheduler._lock:
        stays = min(scheduler._untokenized, key=scheduler._window.tokens_of)
    for one in long:
        if one is not stays:
            one.cancel()
    runner.gate.set()
    for one in (*short, stays):
        one.result(PATIENCE_SECONDS)


@pytest.mark.parametrize("callers", [CROWD - 1, CROWD])
def test_on_a_gpu_a_crowd_waits_for_the_lane_that_computes_and_shares_its_next_batch(callers):
    scheduler = Scheduler("test", [Runner(), Runner(), Runner()], tokenize, fills_batches=True)
    busy, free = scheduler._shares
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
