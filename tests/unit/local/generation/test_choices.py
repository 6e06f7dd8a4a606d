"""Several answers told as one stream, whatever the jobs do."""

import pytest

from hybrid_infer.datatypes.chat import ChatDelta, ChatUsage, ChunkChoice
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import ChatPart
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.errors import LocalEngineError, OverloadedError
from hybrid_infer.local.generation.choices import submit_all
from hybrid_infer.local.generation.job import End
from hybrid_infer.local.generation.options import options_of, seed_of_choice

SPEC = ModelSpec("chat", "small", "org/model", None)


class Job:
    created, provenance = 1, None

    def __init__(self, request, deadline, emit):
        self.request, self.deadline, self.emit = request, deadline, emit
        self.id = f"job-{request.seed}"
        self.is_abandoned = False

    def abandon(self):
        self.is_abandoned = True

    def says(self, text):
        self.emit(ChatPart((ChunkChoice(0, ChatDelta(content=text)),)))

    def ends(self, tokens):
        self.emit(ChatPart((ChunkChoice(0, ChatDelta(), "stop"),)))
        self.emit(ChatPart((), ChatUsage(7, tokens)))
        self.emit(End())


class Engine:
    def __init__(self, room=100):
        self.jobs, self.room = [], room
        self.at_submit = lambda job: None

    def submit(self, request, deadline, emit):
        if len(self.jobs) == self.room:
            raise OverloadedError("full", retry_after=1)
        job = Job(request, deadline, emit)
        self.jobs.append(job)
        self.at_submit(job)
        return job


def asked(engine, n, seed=5):
    passthrough = {"n": n, "top_logprobs": 0} if n > 1 else {}
    request = ChatRequest(SPEC, (), 9, seed=seed, passthrough=passthrough)
    told = []
    return submit_all(engine, request, Deadline(9), told.append), told


def test_one_answer_is_the_engine_s_own_job():
    engine = Engine()
    handle, _ = asked(engine, 1)
    assert handle is engine.jobs[0]


def test_answers_keep_their_index_and_end_together():
    engine = Engine()
    handle, told = asked(engine, 3)
    first, second, third = engine.jobs
    second.says("b")
    first.says("a")
    second.ends(2)
    third.ends(4)
    first.says("A")
    assert not any(isinstance(item, End) for item in told)
    first.ends(8)
    choices = [(c.index, c.delta.content) for part in told[:-1] for c in part.choices]
    assert choices == [(1, "b"), (0, "a"), (1, None), (2, None), (0, "A"), (0, None)]
    assert [part.usage for part in told[:-1] if part.usage] == [ChatUsage(7, 14)]
    assert told[-1] == End()
    assert (handle.id, handle.created) == (first.id, 1)


def test_each_has_a_seed_of_its_own_and_asks_for_one_answer():
    engine = Engine()
    asked(engine, 3, seed=5)
    seeds = [job.request.seed for job in engine.jobs]
    assert seeds == [seed_of_choice(5, index) for index in range(3)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert [options_of(job.request).n for job in engine.jobs] == [1, 1, 1]
    engine = Engine()
    asked(engine, 2, seed=None)
    assert [job.request.seed for job in engine.jobs] == [None, None]


def test_one_that_fails_ends_all():
    engine = Engine()
    _, told = asked(engine, 2)
    first, second = engine.jobs
    error = LocalEngineError("broken")
    first.emit(End(error))
    second.says("late")
    second.ends(1)
    assert told == [End(error)]
    assert second.is_abandoned


def test_one_that_fails_while_others_are_submitted_ends_those_too():
    engine = Engine()
    engine.at_submit = lambda job: job.emit(End(LocalEngineError("broken")))
    _, told = asked(engine, 3)
    assert len(told) == 1
    assert all(job.is_abandoned for job in engine.jobs)


def test_a_queue_that_has_no_room_for_all_takes_none():
    engine = Engine(room=2)
    with pytest.raises(OverloadedError):
        asked(engine, 3)
    assert all(job.is_abandoned for job in engine.jobs)


def test_who_leaves_leaves_all():
    engine = Engine()
    handle, _ = asked(engine, 3)
    handle.abandon()
    assert all(job.is_abandoned for job in engine.jobs)
