"""Both drivers, one script: the same steps, the same waits, the same endings."""

import asyncio

import pytest

from hybrid_infer.client.drive import Dispatch, drive, drive_async
from hybrid_infer.client.streams import AsyncChatStream, ChatStream
from hybrid_infer.datatypes.chat import ChatDelta, ChunkChoice
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.datatypes.route import Reason, Route
from hybrid_infer.errors import (
    APIConnectionError,
    LocalEngineError,
    RateLimitError,
    RemoteProtocolError,
    StreamInterruptedError,
)
from hybrid_infer.routing.state import Decision, Preload, Try, Wait
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

    def next_call(self, _error, _text, *, has_tools):
        assert not has_tools
        return "nobody can"

    def end(self):
        pass


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
    stream = ChatStream(parts, ROUTE, Nobody())
    chunks = []
    with pytest.raises(StreamInterruptedError) as caught:
        chunks.extend(stream)
    assert caught.value.partial == "Hello"
    assert isinstance(caught.value.__cause__, LocalEngineError)
    assert parts.closed == 1
    assert list(stream) == []


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
    with ChatStream(parts, ROUTE, Nobody()) as stream:
        assert next(stream).choices[0].delta.content == "a"
    assert parts.closed == 1
    assert list(stream) == []
