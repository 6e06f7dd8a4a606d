"""Both drivers, one script: the same steps, the same waits, the same endings."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.client.drive import Dispatch, drive, drive_async
from hybrid_infer.client.streams import AsyncChatStream, ChatStream
from hybrid_infer.datatypes.chat import ChatDelta, ChunkChoice
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.datatypes.route import Reason, Route
from hybrid_infer.datatypes.timings import ChatTimings
from hybrid_infer.errors import (
    APIConnectionError,
    LocalEngineError,
    RateLimitError,
    RemoteProtocolError,
    StreamInterruptedError,
)
from hybrid_infer.routing.state import Decision, Preload, Race, Try, Wait
from hybrid_infer.routing.targets import Target

REMOTE, LOCAL = Target("huggingface", "remote"), Target("local", "local")
SPEC = ModelSpec("chat", "small", "org/chatter", None)
EMBED = EmbedRequest(SPEC, ("a",))
STREAM = ChatRequest(SPEC, ({"role": "user", "content": "hi"},), 5, stream=True)
ROUTE = Route("remote", "huggingface", "org/chatter", None, False, Reason.PRIMARY, "", (), 0.1)


class Parts:
    """A scripted stream of parts, sync and async at once."""

    id, created, provenance = "x", 0, Provenance("org/chatter", None, verified=True)

    def __init__(self, script):
        self.script = list(script)
        self.closed = 0

    def __iter__(self):
        return self

    __aiter__ = __iter__

    def step(self, end):
        if not self.script:
            raise end
        item = self.script.pop(0)
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, ChatPart):
            return item
        return ChatPart((ChunkChoice(0, ChatDelta(content=item)),))

    def __next__(self):
        return self.step(StopIteration)

    async def __anext__(self):
        return self.step(StopAsyncIteration)

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


class Nobody:
    """No target can go on with a broken stream."""

    attempts = ()
    num_answers = 1

    def __init__(self):
        self.told = []

    def next_call(self, _error, _text, *, has_tools):
        assert not has_tools
        return "nobody can"

    def end(self):
        pass

    def report_end(self, _route, _answered, error, *, is_whole):
        self.told.append((error, is_whole))


class ScriptedBackend:
    def __init__(self, answers):
        self.answers = list(answers)

    def call(self, _request, deadline):
        assert deadline.left() > 0
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    stream = call

    async def acall(self, request, deadline):
        return self.call(request, deadline)

    async def astream(self, request, deadline):
        return self.call(request, deadline)


def scripted_flow(steps, seen):
    for step in steps:
        outcome = yield step
        seen.append(outcome)
    return Decision(seen[-1].result, LOCAL, Reason.PRIMARY, "", ())


def run_both(steps, answers, request=EMBED):
    """Run the script through both drivers; returns what each saw, slept and ended with."""
    runs = []
    for kind in ("sync", "async"):
        seen, slept, preloads = [], [], []
        backend = ScriptedBackend(answers())
        dispatch = Dispatch(
            backends=lambda name, b=backend: b,
            preload=lambda p=preloads: p.append(1),
            request=request,
            deadline=Deadline(5.0),
        )
        flow = scripted_flow(steps, seen)

        async def asleep(seconds, log=slept):
            log.append(seconds)

        if kind == "sync":
            decision = drive(flow, dispatch, slept.append)
        else:
            decision = asyncio.run(drive_async(flow, dispatch, asleep))
        errors = [type(o.error) if o and o.error else o and o.result for o in seen]
        runs.append((errors, slept, len(preloads), decision.result))
    return runs


def test_steps_waits_and_results_are_the_same():
    result = object()
    one, two = run_both(
        [Try(REMOTE), Wait(2.5), Preload(), Try(LOCAL, 3.0, 1.0)],
        lambda: [RateLimitError("slow"), result],
    )
    assert one == two
    assert one == ([RateLimitError, None, None, result], [2.5], 1, result)


class Stalling:
    """A backend whose calls end when they are given up, or when the other one has ended."""

    def __init__(self, other_ended=None, answer=None):
        self.begun, self.given_up = threading.Event(), threading.Event()
        self.other_ended, self.answer = other_ended, answer

    def call(self, _request, deadline):
        self.begun.set()
        deadline.on_cancel(self.given_up.set)
        assert (self.other_ended or self.given_up).wait(20.0)
        raise self.answer or LocalEngineError("given up")

    async def acall(self, _request, deadline):
        self.begun.set()
        try:
            while self.other_ended is None or not self.other_ended.is_set():
                await asyncio.wait_for(asyncio.Event().wait(), 0.001 if self.other_ended else 20.0)
        except TimeoutError:
            return await self.acall(_request, deadline)
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        raise self.answer


class Ending(ScriptedBackend):
    """A backend that tells when its one call has ended."""

    def __init__(self, answer):
        super().__init__([answer])
        self.ended = threading.Event()

    def call(self, request, deadline):
        try:
            return super().call(request, deadline)
        finally:
            self.ended.set()


def raced(kind, answers, after_seconds=0.0):
    """The outcome of one race as a driver tells it."""
    remote, local = answers()
    seen = []
    flow = scripted_flow([Race(Try(REMOTE), Try(LOCAL), after_seconds)], seen)
    backends = {REMOTE.name: remote, LOCAL.name: local}
    dispatch = Dispatch(backends.__getitem__, lambda: None, EMBED, Deadline(30.0))
    if kind == "sync":
        drive(flow, dispatch)
    else:
        asyncio.run(drive_async(flow, dispatch))
    (outcome,) = seen
    hedge = outcome.hedge and outcome.hedge.result
    return outcome.result, type(outcome.error), hedge, remote


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_race_that_the_first_ends_in_time(kind):
    one, two = object(), object()
    outcome = raced(kind, lambda: (Ending(one), Ending(two)), after_seconds=20.0)
    assert outcome[:3] == (one, type(None), None)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_race_that_the_second_wins(kind):
    two = object()
    *told, stalled = raced(kind, lambda: (Stalling(), Ending(two)))
    assert told == [None, type(None), two]
    assert stalled.given_up.wait(20.0), "the loser is cancelled"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_race_that_both_lose(kind):
    def answers():
        local = Ending(LocalEngineError("boom"))
        return Stalling(local.ended, RateLimitError("slow")), local

    assert raced(kind, answers)[:3] == (None, RateLimitError, None)


def watched(steps, ending):
    """A flow of `steps` that writes down that it was closed."""
    try:
        yield from steps
    except GeneratorExit:
        ending.append("closed")
        raise


STEPS = {"try": Try(REMOTE), "wait": Wait(20.0), "race": Race(Try(REMOTE), Try(LOCAL), 0.0)}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_an_interrupt_closes_the_flow(step):
    ending = []
    interrupted = ScriptedBackend([KeyboardInterrupt()] * 2)
    dispatch = Dispatch(lambda _: interrupted, lambda: None, EMBED, Deadline(30.0))

    def sleep(_seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(watched([step], ending), dispatch, sleep)
    assert ending == ["closed"]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_cancelling_a_task_closes_the_flow_and_its_tries(step):
    ending, backend = [], Stalling()
    dispatch = Dispatch(lambda _: backend, lambda: None, EMBED, Deadline(30.0))

    async def asleep(_seconds):
        backend.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            backend.given_up.set()

    async def main():
        task = asyncio.ensure_future(drive_async(watched([step], ending), dispatch, asleep))
        for _ in range(100):
            await asyncio.wait([task], timeout=0.001)
            if backend.begun.is_set():
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ending == ["closed"]
    assert backend.given_up.is_set()


SCRIPTS = st.lists(
    st.one_of(
        st.builds(Try, st.sampled_from([REMOTE, LOCAL]), st.none() | st.floats(1, 9)),
        st.builds(Wait, st.floats(0.001, 99)),
        st.just(Preload()),
        st.builds(Race, st.just(Try(REMOTE)), st.just(Try(LOCAL)), st.just(20.0)),
    ),
    max_size=12,
)
ANSWERS = st.lists(st.sampled_from([1, 2, 3, RateLimitError("x"), APIConnectionError("x")]),
                   min_size=13, max_size=13)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(steps=SCRIPTS, answers=ANSWERS)
def test_whatever_the_script_both_drivers_do_the_same(steps, answers):
    one, two = run_both([*steps, Try(LOCAL)], lambda: answers)
    assert one == two


def test_a_stream_commits_at_its_first_part():
    for outcomes, *_ in run_both(
        [Try(REMOTE), Try(LOCAL)],
        lambda: [Parts([APIConnectionError("gone")]), Parts(["a", "b"])],
        STREAM,
    ):
        assert outcomes[0] is APIConnectionError
        assert outcomes[1].id == "x"


def test_an_empty_stream_is_a_failed_attempt():
    for outcomes, *_ in run_both(
        [Try(REMOTE), Try(LOCAL)], lambda: [Parts([]), Parts(["a"])], STREAM
    ):
        assert outcomes[0] is RemoteProtocolError


def test_a_foreign_exception_is_not_an_outcome():
    seen = []
    dispatch = Dispatch(
        lambda _: ScriptedBackend([ZeroDivisionError()]), lambda: None, EMBED, Deadline(5.0)
    )
    with pytest.raises(ZeroDivisionError):
        drive(scripted_flow([Try(REMOTE)], seen), dispatch)
    assert seen == []


def test_a_break_after_the_first_part_is_one_error_with_the_partial_text():
    parts = Parts(["Hel", "lo", LocalEngineError("boom")])
    nobody = Nobody()
    stream = ChatStream(parts, ROUTE, nobody)
    chunks = []
    with pytest.raises(StreamInterruptedError) as caught:
        chunks.extend(stream)
    assert caught.value.partial == "Hello"
    assert isinstance(caught.value.__cause__, LocalEngineError)
    assert parts.closed == 1
    assert list(stream) == []
    stream.close()
    assert nobody.told == [("StreamInterruptedError", False)]


def of(index, *, role=None, text=None, finish_reason=None):
    timings = ChatTimings(index + 1.0, 2.0) if finish_reason else None
    return ChatPart((ChunkChoice(index, ChatDelta(role, text), finish_reason),), timings=timings)


class NobodyForTwo(Nobody):
    num_answers = 2


def test_of_two_answers_one_end_is_not_the_end():
    first = [of(0, text="a"), of(0, finish_reason="stop"), of(1, text="b")]
    broken = ChatStream(Parts([*first, LocalEngineError("boom")]), ROUTE, NobodyForTwo())
    with pytest.raises(StreamInterruptedError):
        list(broken)
    whole = [*first, of(1, finish_reason="stop"), LocalEngineError("after the end")]
    stream = ChatStream(Parts(whole), ROUTE, NobodyForTwo())
    assert len(list(stream)) == 4
    assert stream.timings == ChatTimings(1.0, 2.0)


def test_each_answer_is_announced_once():
    parts = [of(index, role="assistant", text="") for index in (0, 1, 0, 1)]
    stream = ChatStream(Parts(parts), ROUTE, NobodyForTwo())
    assert [chunk.choices[0].index for chunk in stream] == [0, 1]


def test_an_async_break_is_the_same():
    parts = Parts(["Hel", "lo", LocalEngineError("boom")])

    async def main():
        stream = AsyncChatStream(parts, ROUTE, Nobody())
        with pytest.raises(StreamInterruptedError) as caught:
            [chunk async for chunk in stream]
        assert caught.value.partial == "Hello"
        assert parts.closed == 1

    asyncio.run(main())


def test_leaving_the_with_block_closes_the_stream():
    parts = Parts(["a", "b"])
    nobody = Nobody()
    with ChatStream(parts, ROUTE, nobody) as stream:
        assert next(stream).choices[0].delta.content == "a"
    assert parts.closed == 1
    assert nobody.told == [(None, False)]
    assert list(stream) == []
