"""A broken stream goes on locally: over real TCP, on the same weights, cut after every event."""

import asyncio
from unittest import mock

import pytest

from hybrid_infer import (
    AsyncHybridClient,
    HybridClient,
    Reason,
    RemoteServerError,
    StreamInterruptedError,
)
from hybrid_infer.events import AttemptFinished
from hybrid_infer.local.generation.job import ChatJob
from hybrid_infer.local.generation.prompting import Prompter
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.testing import Event, FakeRemote, Match, Reply

PROMPT = "Tell me about low latency."
STREAMED = Match(task="chat", stream=True)


@pytest.fixture(scope="module")
def shared_fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


@pytest.fixture
def fake(shared_fake):
    shared_fake.reset()
    yield shared_fake
    shared_fake.reset()


@pytest.fixture(scope="module")
def shared_client(shared_fake):
    with HybridClient(profile="tiny", base_url=shared_fake.url, dtype="float32") as made:
        made.warm(["chat/default", "chat/small"])
        yield made


@pytest.fixture
def client(shared_client):
    shared_client.reset()
    return shared_client


def streamed(client, model="small", **options):
    options = {"max_tokens": 16, "temperature": 0.0} | options
    with client.chat_completion(PROMPT, model=model, stream=True, **options) as stream:
        return list(stream)


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def greedy_tokens(client, model):
    """The tokens of the uninterrupted answer, and how the local copy reads a part of its text."""
    from hybrid_infer.client.requests import chat_request

    tokens, take = [], ChatJob.take

    def watched(job, token):
        tokens.append(token)
        return take(job, token)

    with mock.patch.object(ChatJob, "take", watched):
        client.chat_completion(PROMPT, model=model, max_tokens=16, temperature=0, route="local")
    session = client._session
    spec = session.registry.resolve("chat", model)
    prompter = Prompter(find_snapshot(spec), spec.context_length)
    request = chat_request(spec, PROMPT, session.settings, max_tokens=16, temperature=0.0)
    prompt = prompter.encode(request.messages)
    return tokens, lambda text: prompter.encode_answer(prompt, text)


@pytest.mark.parametrize("model", ["default", "small"])
def test_cut_after_every_event_the_text_is_the_same(client, fake, model, capsys):
    events = streamed(client, model)
    whole, (tokens, read) = text_of(events), greedy_tokens(client, model)
    exact = other = 0
    for cut in range(2, len(events)):
        client.reset()
        fake.enqueue(Reply(cut_after_events=cut))
        chunks = streamed(client, model)
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
        assert {chunk.id for chunk in chunks} == {chunks[0].id}
        assert [c.route.backend for c in chunks] == ["remote"] * (cut) + ["local"] * (
            len(chunks) - cut
        )
        partial = text_of(chunks[:cut])
        ids = read(partial)
        if ids == tokens[: len(ids)]:
            exact += 1
            assert text_of(chunks) == whole, cut
        else:
            other += 1
            assert text_of(chunks).startswith(partial)
    with capsys.disabled():
        print(f"\n{model}: {exact} cuts read as the tokens that made them, {other} otherwise")
    assert exact > 0


def test_a_stream_without_text_is_started_over_elsewhere(client, fake):
    fake.enqueue(Reply(events=[Event(content="")], cut_after_events=1))
    chunks = streamed(client)
    assert not chunks[0].choices[0].delta.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == text_of(streamed(client, route="local"))
    assert chunks[0].route.backend == "remote"
    assert chunks[-1].route.backend == "local"
    assert [c.choices[0].delta.role for c in chunks if c.choices].count("assistant") == 1


def test_the_route_tells_what_happened(client, fake):
    fake.enqueue(Reply(cut_after_events=4))
    route = streamed(client)[-1].route
    assert (route.backend, route.reason) == ("local", Reason.BAD_RESPONSE)
    assert "broke" in route.detail
    assert [(a.target, a.error) for a in route.attempts] == [
        ("huggingface", "StreamInterruptedError"),
        ("local", None),
    ]


ONLY_WHO_SPEAKS = Reply(events=[Event(content="")], cut_after_events=1)


@pytest.fixture
def three():
    """Three remotes, a client of theirs without a local copy, and the tries that it tells of."""
    told = []

    def hear(event):
        if isinstance(event, AttemptFinished):
            told.append((event.attempt.target, event.attempt.error))

    with FakeRemote() as a, FakeRemote() as b, FakeRemote() as c:
        remotes = [
            {"name": name, "dialect": "openai", "base_url": fake.url}
            for name, fake in zip("abc", (a, b, c), strict=True)
        ]
        with HybridClient(
            profile="tiny", models={"remotes": remotes}, policy="remote-only", on_event=hear
        ) as client:
            yield client, (a, b, c), told


def test_every_try_of_a_stream_that_is_started_over_is_told(three):
    client, (a, b, _), told = three
    a.enqueue(ONLY_WHO_SPEAKS)
    b.enqueue(Reply(status=503))
    route = streamed(client)[-1].route
    tries = [("a", "StreamInterruptedError"), ("b", "RemoteServerError"), ("c", None)]
    assert [(tried.target, tried.error) for tried in route.attempts] == tries
    assert told == [("a", None), *tries]
    assert route.detail.count("the stream broke") == 1
    began = [tried.started_after_seconds for tried in route.attempts]
    assert began == sorted(began)


def test_every_try_of_a_stream_that_nobody_can_start_over_is_told(three):
    client, (a, b, _), told = three
    a.enqueue(ONLY_WHO_SPEAKS)
    b.enqueue(Reply(status=400, json={"error": {"message": "no such option"}}))
    with pytest.raises(StreamInterruptedError) as caught:
        streamed(client)
    tries = [("a", "StreamInterruptedError"), ("b", "InvalidRequestError")]
    assert [(tried.target, tried.error) for tried in caught.value.attempts] == tries
    assert told == [("a", None), *tries]
    assert "no such option" in caught.value.__notes__[0]


def test_a_break_is_told_if_nobody_may_go_on(three):
    client, (a, _, _), told = three
    a.enqueue(Reply(events=[Event(content="The an")], cut_after_events=1))
    with pytest.raises(StreamInterruptedError):
        streamed(client)
    assert told == [("a", None), ("a", "StreamInterruptedError")]


def test_usage_counts_both_halves_once(client, fake):
    whole = streamed(client, stream_options={"include_usage": True})[-1].usage
    fake.enqueue(Reply(cut_after_events=6))
    joined = streamed(client, stream_options={"include_usage": True})[-1].usage
    assert joined == whole


def test_an_error_event_in_the_middle_is_a_break_like_any_other(client, fake):
    whole = text_of(streamed(client))
    half = whole[: len(whole) // 2]
    fake.enqueue(Reply(events=[Event(content=half), Event(error={"message": "GPU is gone"})]))
    chunks = streamed(client)
    assert text_of(chunks).startswith(half)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].route.backend == "local"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_text_that_breaks_inside_a_token_is_healed(client, fake, size):
    """No character is lost, doubled or inserted wherever a proxy cuts the text."""
    for model in ("default", "small"):
        whole = text_of(streamed(client, model))
        for cut in range(1, len(whole), size):
            client.reset()
            fake.enqueue(Reply(events=[Event(content=whole[:cut])], cut_after_events=1))
            assert text_of(streamed(client, model)).startswith(whole[:cut])


def test_a_stop_string_may_lie_across_the_seam(client, fake):
    whole = text_of(streamed(client))
    middle = len(whole) // 2
    stop = whole[middle - 2 : middle + 2]
    before = whole.index(stop)
    fake.enqueue(Reply(events=[Event(content=whole[: before + 1])], cut_after_events=1))
    chunks = streamed(client, stop=stop)
    assert text_of(chunks) == whole[: before + 1]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_whole_answer_without_its_end_mark_only_gets_its_finish(client, fake):
    whole = streamed(client)
    fake.enqueue(Reply(cut_after_events=len(whole) - 1))
    chunks = streamed(client)
    assert text_of(chunks) == text_of(whole)
    assert chunks[-1].choices[0].finish_reason == whole[-1].choices[0].finish_reason


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"on_stream_error": "raise"}, "on_stream_error"),
        ({"route": "remote"}, "route="),
        ({"response_format": {"type": "json_object"}}, "with response_format cannot be continued"),
        ({"logprobs": True}, "with logprobs cannot be continued"),
        ({"logit_bias": {"5": 1}}, "cannot honour 'logit_bias'"),
    ],
)
def test_what_cannot_go_on_is_interrupted_with_its_text(client, fake, options, why):
    fake.enqueue(Reply(events=[Event(content="The an"), Event(content="swer")], cut_after_events=2))
    with pytest.raises(StreamInterruptedError) as caught:
        streamed(client, **options)
    assert caught.value.partial == "The answer"
    assert why in caught.value.__notes__[0]


def test_a_copy_that_is_not_warm_in_time_is_an_interruption(fake):
    models = {"settings": {"routing": {"preload": "never"}}}
    with HybridClient(profile="tiny", base_url=fake.url, models=models) as cold:
        slow = cold._session.local
        readiness = slow.readiness
        slow.readiness = lambda spec, **options: readiness(spec, **options).__class__(
            readiness(spec, **options).state, 60.0
        )
        fake.enqueue(Reply(cut_after_events=4))
        with pytest.raises(StreamInterruptedError) as caught:
            streamed(cold)
    assert "not ready" in caught.value.__notes__[0]


def test_a_local_copy_that_breaks_as_well_is_the_end(client, fake, monkeypatch):
    def broken(_self, *_arguments):
        raise RemoteServerError("no more")

    fake.enqueue(Reply(events=[Event(content="The an"), Event(content="swer")], cut_after_events=2))
    monkeypatch.setattr(ChatJob, "prepare", broken)
    with pytest.raises(StreamInterruptedError) as caught:
        streamed(client)
    assert caught.value.partial == "The answer"
    assert [a.target for a in caught.value.attempts] == ["huggingface", "local"]
    assert "no more" in caught.value.__notes__[0]


def test_awaited_it_is_the_same(fake):
    async def main():
        async with AsyncHybridClient(profile="tiny", base_url=fake.url, dtype="float32") as made:
            await made.warm("chat/small")
            whole, joined = [], []
            for chunks, reply in ((whole, None), (joined, Reply(cut_after_events=5))):
                if reply:
                    fake.enqueue(reply)
                stream = await made.chat_completion(
                    PROMPT, "small", stream=True, max_tokens=16, temperature=0.0
                )
                async with stream:
                    chunks.extend([chunk async for chunk in stream])
            assert text_of(joined) == text_of(whole)
            assert joined[-1].route.backend == "local"
            fake.enqueue(Reply(cut_after_events=5))
            with pytest.raises(StreamInterruptedError):
                async for _ in await made.chat_completion(
                    PROMPT, "small", stream=True, on_stream_error="raise"
                ):
                    pass

    asyncio.run(main())


def test_behind_a_read_that_was_cancelled_a_stream_has_not_come_to_its_end(fake):
    async def main():
        async with AsyncHybridClient(
            profile="tiny", base_url=fake.url, policy="remote-only"
        ) as client:
            fake.enqueue(Reply(events=[Event(content="The an")], stall_after_events=1), times=2)
            stream = await client.chat_completion(PROMPT, "small", stream=True)
            assert (await anext(stream)).choices[0].delta.content == "The an"
            read = asyncio.ensure_future(anext(stream))
            await asyncio.wait([read], timeout=0.01)
            read.cancel()
            with pytest.raises(asyncio.CancelledError):
                await read
            with pytest.raises(StreamInterruptedError) as caught:
                await anext(stream)
            assert caught.value.partial == "The an"
            await stream.aclose()
            assert [chunk async for chunk in stream] == []

    asyncio.run(main())


def test_a_stream_that_its_reader_closes_has_come_to_its_end(client, fake):
    fake.enqueue(Reply(events=[Event(content="The an")], stall_after_events=1))
    stream = client.chat_completion(PROMPT, "small", stream=True, route="remote")
    assert next(stream).choices[0].delta.content == "The an"
    stream.close()
    assert list(stream) == []


def test_a_read_that_is_cancelled_while_somebody_else_is_asked_is_no_end_either(fake):
    async def main():
        async with AsyncHybridClient(
            profile="tiny", base_url=fake.url, policy="remote-only"
        ) as client:
            fake.enqueue(ONLY_WHO_SPEAKS)
            fake.enqueue(Reply(stall_after_bytes=0), times=None)
            stream = await client.chat_completion(PROMPT, "small", stream=True)
            await anext(stream)
            read = asyncio.ensure_future(anext(stream))
            await asyncio.to_thread(fake.wait_for, 2)
            read.cancel()
            with pytest.raises(asyncio.CancelledError):
                await read
            with pytest.raises(StreamInterruptedError):
                await anext(stream)

    asyncio.run(main())
