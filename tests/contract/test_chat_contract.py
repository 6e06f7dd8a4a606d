"""One contract for whoever answers a chat: a caller can tell them apart by `route` alone.

The same tests run against a remote over real TCP, the seeded local model, a real local model and
that model in a GGUF file, each through the blocking client and the awaited one.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from anyio.lowlevel import checkpoint

from hybrid_infer import (
    APITimeoutError,
    AsyncHybridClient,
    ContextLengthError,
    DeadlineExceededError,
    HybridClient,
    InvalidRequestError,
    StreamInterruptedError,
)
from hybrid_infer.testing import FakeRemote

PROMPT = "Explain low latency."
GREEDY = {"temperature": 0, "max_tokens": 16}
CALLERS = 8
PATIENCE_SECONDS = 60.0


def tiny_remote(stack_of):
    fake = stack_of(FakeRemote())
    return {"profile": "tiny", "base_url": fake.url, "policy": "remote-only"}, "small", "remote"


def tiny_local(_):
    return {"profile": "tiny", "policy": "local-only", "dtype": "float32"}, "small", "local"


SERVICES = {
    "remote": pytest.param(tiny_remote),
    "tiny": pytest.param(tiny_local),
    "smollm2": pytest.param("smollm2", marks=[pytest.mark.real_weights, pytest.mark.slow]),
    "gguf": pytest.param("smollm2_gguf", marks=pytest.mark.gguf),
}


class Blocking:
    """The blocking client; `stream` gives the chunks, and closes after `most` of them."""

    def __init__(self, options, model):
        self.client, self._model = HybridClient(**options), model

    def complete(self, messages=PROMPT, **options):
        return self.client.chat_completion(messages, model=self._model, **{**GREEDY, **options})

    def stream(self, messages=PROMPT, most=None, **options):
        chunks = []
        with self.complete(messages, stream=True, **options) as stream:
            for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == most:
                    break
        return chunks

    def at_once(self, calls):
        with ThreadPoolExecutor(len(calls)) as pool:
            return list(
                pool.map(lambda call: call(), [lambda c=c: self.complete(**c) for c in calls])
            )

    def close(self):
        self.client.close()


class Awaited:
    """The awaited client, on a loop of its own."""

    def __init__(self, options, model):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._model = model
        self.client = self.run(self._made(options))

    async def _made(self, options):
        return AsyncHybridClient(**options)

    def run(self, awaitable):
        future = asyncio.run_coroutine_threadsafe(awaitable, self._loop)
        return future.result(PATIENCE_SECONDS)

    def begin(self, messages=PROMPT, **options):
        return self.client.chat_completion(messages, model=self._model, **{**GREEDY, **options})

    def complete(self, messages=PROMPT, **options):
        return self.run(self.begin(messages, **options))

    def stream(self, messages=PROMPT, most=None, **options):
        async def main():
            chunks = []
            async with await self.begin(messages, stream=True, **options) as stream:
                async for chunk in stream:
                    chunks.append(chunk)
                    if len(chunks) == most:
                        break
            return chunks

        return self.run(main())

    def at_once(self, calls):
        async def main():
            return await asyncio.gather(*(self.begin(**call) for call in calls))

        return self.run(main())

    def close(self):
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module", params=list(SERVICES.values()), ids=list(SERVICES))
def service(request):
    """What the clients are made with, the model's name, and who should answer."""
    with pytest.MonkeyPatch.context() as patch:
        closing = []

        def opened(context):
            closing.append(context)
            return context.__enter__()

        if callable(request.param):
            options, model, backend = request.param(opened)
        else:
            name = "_real_chat" if request.param == "smollm2" else request.param
            models = request.getfixturevalue(name)
            if name == "_real_chat":
                hub, models = models
                patch.setenv("HF_HUB_CACHE", str(hub))
            options = {"models": models, "policy": "local-only"}
            model, backend = "real", "local"
        yield SimpleNamespace(options=options, model=model, backend=backend)
        for context in closing:
            context.__exit__(None, None, None)


@pytest.fixture(scope="module", params=[Blocking, Awaited], ids=["sync", "async"])
def caller(request, service):
    made = request.param(service.options, service.model)
    yield made
    made.close()


@pytest.fixture
def is_async(caller):
    return isinstance(caller, Awaited)


def text_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def pieces_of(chunks):
    return [c.delta.content for chunk in chunks for c in chunk.choices if c.delta.content]


def reasons_of(chunks):
    return [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]


def test_a_whole_answer_has_openais_shape(caller, service):
    answer = caller.complete()
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.created > 1_700_000_000
    assert (choice.index, choice.message.role, choice.message.tool_calls) == (0, "assistant", ())
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert (answer.route.backend, answer.model) == (service.backend, answer.route.model)
    assert len(answer.route.attempts) == 1


def test_usage_adds_up_and_length_means_max_tokens(caller):
    for most in (1, 2, 7):
        answer = caller.complete(max_tokens=most)
        usage = answer.usage
        assert answer.choices[0].finish_reason == "length"
        assert usage.completion_tokens == most
        assert usage.total_tokens == usage.prompt_tokens + most
        assert usage.prompt_tokens == caller.complete(max_tokens=1).usage.prompt_tokens > 3


def test_more_messages_are_more_prompt_tokens(caller):
    conversation = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi, what is it?"},
        {"role": "user", "content": PROMPT},
    ]
    answer = caller.complete(conversation, max_tokens=2)
    assert answer.usage.prompt_tokens > caller.complete(max_tokens=2).usage.prompt_tokens


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.0, "seed": 3, "top_p": 0.9, "top_k": 50}],
    ids=["greedy", "seed"],
)
def test_a_stream_says_what_the_whole_answer_says(caller, options):
    whole = caller.complete(**options)
    chunks = caller.stream(**options, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert reasons_of(chunks) == [whole.choices[0].finish_reason]
    assert chunks[-1].usage == whole.usage
    assert text_of(caller.stream(**options)) == text_of(chunks)


def test_other_seeds_give_other_answers(caller):
    options = {"temperature": 1.5, "max_tokens": 12}
    answers = {caller.complete(**options, seed=s).choices[0].message.content for s in range(4)}
    assert len(answers) > 1


def test_the_chunks_of_a_stream(caller, service):
    chunks = caller.stream(stream_options={"include_usage": True})
    *body, last = chunks
    assert {(chunk.id, chunk.created, chunk.object) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, "chat.completion.chunk")
    }
    assert chunks[0].id.startswith("chatcmpl-")
    assert {chunk.route.backend for chunk in chunks} == {service.backend}
    # The role comes first and once, the reason last and once, and behind it the usage alone.
    assert body[0].choices[0].delta.role == "assistant"
    assert [c.delta.role for chunk in body[1:] for c in chunk.choices if c.delta.role] == []
    assert all(len(chunk.choices) == 1 and chunk.choices[0].index == 0 for chunk in body)
    assert [bool(chunk.choices[0].finish_reason) for chunk in body] == [False] * (len(body) - 1) + [
        True
    ]
    assert (last.choices, last.usage.completion_tokens) == ((), 16)
    assert all(chunk.usage is None for chunk in body)


def test_without_the_wish_there_is_no_usage(caller):
    assert all(chunk.usage is None and chunk.choices for chunk in caller.stream())


def test_a_stop_string_across_pieces_ends_the_answer(caller):
    options = {"max_tokens": 24}
    pieces = pieces_of(caller.stream(**options))
    whole = "".join(pieces)
    at = len(pieces[0]) + len(pieces[1])
    stop = whole[at - 1 : at + 2]
    expected = whole[: whole.index(stop)]
    answer = caller.complete(**options, stop=[stop, "never said"])
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"
    assert 0 < answer.usage.completion_tokens < 24
    chunks = caller.stream(**options, stop=stop)
    assert (text_of(chunks), reasons_of(chunks)) == (expected, ["stop"])


def test_a_stop_string_that_is_only_begun_is_said(caller):
    options = {"max_tokens": 12}
    whole = caller.complete(**options).choices[0].message.content
    unfinished = whole[-2:] + "\ue123"
    answer = caller.complete(**options, stop=unfinished)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (whole, "length")
    assert text_of(caller.stream(**options, stop=unfinished)) == whole


@pytest.mark.parametrize("seed", range(3))
def test_no_character_is_ever_split(caller, seed):
    """Hot sampling spells all kinds of bytes; only what is no character at all may be U+FFFD."""
    options = {"temperature": 2.0, "seed": seed, "max_tokens": 40}
    messages = [{"role": "user", "content": "🎉 naïve 東京 👩‍👩‍👧 \u0301"}]
    whole = caller.complete(messages, **options).choices[0].message.content
    pieces = pieces_of(caller.stream(messages, **options))
    assert "".join(pieces) == whole
    for piece in pieces:
        piece.encode()  # half a surrogate pair could not be


def test_what_is_wrong_with_a_call_is_said_before_anyone_answers(caller):
    for wrong, argument in (
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"no_such_option": object()}, "no_such_option"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            caller.complete(**wrong)
        assert caught.value.argument == argument


def test_an_empty_text_is_still_a_message(caller):
    assert caller.complete([{"role": "user", "content": ""}], max_tokens=2).usage.completion_tokens


@pytest.mark.parametrize("call", ["complete", "stream"])
def test_what_cannot_fit_the_window_is_one_error(caller, call):
    for wrong in ({"max_tokens": 10**6}, {"messages": "word " * 30_000}):
        with pytest.raises(ContextLengthError):
            getattr(caller, call)(**wrong)
    assert caller.complete(max_tokens=1).choices


def test_a_stream_that_is_closed_leaves_the_service_free(caller):
    for most in (1, 2, 3):
        assert len(caller.stream(most=most, max_tokens=1000)) == most
    assert caller.complete(max_tokens=2, deadline=PATIENCE_SECONDS).usage.completion_tokens == 2


@pytest.mark.parametrize("call", ["complete", "stream"])
def test_a_deadline_ends_a_call_with_one_error(caller, call):
    caller.complete(max_tokens=1)
    with pytest.raises((DeadlineExceededError, APITimeoutError, StreamInterruptedError)):
        getattr(caller, call)(max_tokens=3000, deadline=0.001)
    assert caller.complete(max_tokens=2).usage.completion_tokens == 2


def test_a_cancelled_task_leaves_at_once(caller, is_async):
    if not is_async:
        pytest.skip("a thread cannot be cancelled")

    async def main():
        for options in ({}, {"stream": True}):
            task = asyncio.ensure_future(drained(options))
            for _ in range(5):  # it has begun, and cannot have ended
                await checkpoint()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def drained(options):
        made = await caller.begin(max_tokens=3000, temperature=2.0, **options)
        if options:
            async for _ in made:
                pass

    caller.run(main())
    assert caller.complete(max_tokens=2).usage.completion_tokens == 2


def test_callers_at_the_same_time_get_their_own_answers(caller):
    calls = [
        {"messages": f"{'word ' * number}{PROMPT}", "max_tokens": 3 + number}
        for number in range(CALLERS)
    ]
    answers = caller.at_once(calls)
    prompts = [answer.usage.prompt_tokens for answer in answers]
    assert prompts == sorted(prompts)
    assert len(set(prompts)) == CALLERS
    assert [answer.usage.completion_tokens for answer in answers] == [
        3 + number for number in range(CALLERS)
    ]
    assert len({answer.id for answer in answers}) == CALLERS
