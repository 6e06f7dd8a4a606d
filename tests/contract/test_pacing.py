"""What models.yaml allows of a remote holds over real TCP, and overflow goes local."""

import asyncio
import gc

import pytest

from hybrid_infer import AsyncHybridClient, HybridClient, InvalidRequestError, Reason
from hybrid_infer.testing import FakeRemote, Reply


@pytest.fixture
def fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


def models(fake, **limits):
    return {"remotes": [{"name": "box", "dialect": "openai", "base_url": fake.url, **limits}]}


def chat(client, **options):
    return client.chat_completion("Hi", "small", max_tokens=4, temperature=0.0, **options)


@pytest.fixture
def one_slot(fake):
    with HybridClient(profile="tiny", models=models(fake, max_concurrency=1)) as client:
        client.warm("chat/small")
        yield client


def assert_slot_is_taken(client):
    route = chat(client).route
    assert (route.backend, route.reason) == ("local", Reason.RATE_LIMITED)


def assert_slot_is_free(client):
    assert chat(client).route.backend == "remote"


def test_a_stream_takes_its_slot_until_it_is_closed(one_slot):
    with chat(one_slot, stream=True) as stream:
        next(stream)
        assert_slot_is_taken(one_slot)
    assert_slot_is_free(one_slot)
    stream.close()  # once more gives nothing back
    with chat(one_slot, stream=True) as stream:
        next(stream)
        assert_slot_is_taken(one_slot)


def test_a_stream_read_to_its_end_has_ended(one_slot):
    stream = chat(one_slot, stream=True)
    assert len(list(stream)) > 1
    assert_slot_is_free(one_slot)


def test_a_stream_that_is_dropped_has_ended(one_slot):
    stream = chat(one_slot, stream=True)
    next(stream)
    assert_slot_is_taken(one_slot)
    del stream
    gc.collect()
    assert_slot_is_free(one_slot)


def test_a_stream_that_goes_on_locally_has_ended_there(one_slot, fake):
    fake.enqueue(Reply(cut_after_events=2))
    with chat(one_slot, stream=True) as stream:
        assert {chunk.route.backend for chunk in stream} == {"remote", "local"}
        assert_slot_is_free(one_slot)


def test_a_failed_call_gives_its_slot_back(one_slot, fake):
    fake.enqueue(Reply(status=500))
    assert chat(one_slot).route.reason is Reason.SERVER_ERROR
    assert_slot_is_free(one_slot)


def test_awaited_streams_take_slots_as_well(fake):
    async def main():
        limits = models(fake, max_concurrency=1)
        async with AsyncHybridClient(profile="tiny", models=limits) as client:
            await client.warm("chat/small")
            async with await chat(client, stream=True) as stream:
                await anext(stream)
                assert (await chat(client)).route.reason is Reason.RATE_LIMITED
            assert (await chat(client)).route.backend == "remote"

    asyncio.run(main())


def test_a_slow_pace_sends_the_overflow_local(fake):
    limits = models(fake, requests_per_minute=1)
    with HybridClient(profile="tiny", models=limits) as client:
        client.warm("embeddings/small")
        backends = [client.embed("a", "small").route.backend for _ in range(4)]
        assert backends == ["remote", "local", "local", "local"]
        assert client.status()["remotes"]["box"]["paced_seconds"] > 30
    assert len(fake.ledger) == 1


def test_reset_forgets_one_remote_and_knows_which_there_are(one_slot, fake):
    fake.enqueue(Reply(status=404))
    assert chat(one_slot).route.reason is Reason.MODEL_UNAVAILABLE
    with pytest.raises(InvalidRequestError, match="configured: box"):
        one_slot.reset("bx")
    assert one_slot.status()["remotes"]["box"]["closed"]
    one_slot.reset("box")
    assert_slot_is_free(one_slot)
