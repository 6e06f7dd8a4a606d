"""A client that is closed: its calls end, and nothing is sent or computed for them elsewhere."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.errors import EngineClosedError
from hybrid_infer.events import BatchComputed
from hybrid_infer.testing import FakeRemote, Reply

LONG = [f"{'word ' * 300}{number}" for number in range(6_000)]


@pytest.fixture
def fake():
    with FakeRemote() as remote:
        yield remote


def test_a_call_that_waits_for_a_remote_is_not_computed_here(fake):
    fake.enqueue(Reply(stall_after_bytes=0))
    client = HybridClient(profile="tiny", base_url=fake.url)
    client.warm("embeddings/small")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.embed, "a", "small")
        assert fake.wait_for(1, timeout=10)
        client.close()
        with pytest.raises(EngineClosedError) as caught:
            call.result(10)
    assert [attempt.target for attempt in caught.value.attempts] == ["huggingface"]


def test_a_call_that_is_computed_here_is_not_sent_to_a_remote(fake):
    begun = threading.Event()

    def hear(event):
        if isinstance(event, BatchComputed):
            begun.set()

    client = HybridClient(profile="tiny", base_url=fake.url, policy="local-first", on_event=hear)
    client.warm("embeddings/small")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.embed, LONG, "small")
        assert begun.wait(60)
        client.close()
        with pytest.raises(EngineClosedError):
            call.result(30)
    assert not fake.ledger


def test_awaited_a_call_that_waits_for_a_remote_is_not_computed_here(fake):
    async def main():
        fake.enqueue(Reply(stall_after_bytes=0))
        client = AsyncHybridClient(profile="tiny", base_url=fake.url)
        await client.warm("embeddings/small")
        call = asyncio.create_task(client.embed("a", "small"))
        assert await asyncio.to_thread(fake.wait_for, 1, timeout=10)
        await client.close()
        with pytest.raises(EngineClosedError):
            await call

    asyncio.run(main())


def test_a_call_that_waits_to_ask_again_ends_at_once(fake):
    fake.enqueue(Reply(status=429, retry_after=30))
    client = HybridClient(profile="tiny", base_url=fake.url, policy="remote-only")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.embed, "a", "small", deadline=60)
        fake.wait_for(1, finished=True)
        client.close()
        with pytest.raises(EngineClosedError) as caught:
            call.result(10)
    assert [attempt.target for attempt in caught.value.attempts] == ["huggingface"]
    assert len(fake.ledger) == 1


def test_awaited_a_call_that_waits_to_ask_again_ends_at_once(fake):
    async def main():
        fake.enqueue(Reply(status=429, retry_after=30))
        client = AsyncHybridClient(profile="tiny", base_url=fake.url, policy="remote-only")
        call = asyncio.create_task(client.embed("a", "small", deadline=60))
        await asyncio.to_thread(fake.wait_for, 1, finished=True)
        await client.close()
        with pytest.raises(EngineClosedError) as caught:
            await asyncio.wait_for(call, 10)
        assert [attempt.target for attempt in caught.value.attempts] == ["huggingface"]

    asyncio.run(main())
    assert len(fake.ledger) == 1
