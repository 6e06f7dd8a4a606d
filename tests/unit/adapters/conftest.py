"""A remote on real sockets with the tiny models behind it, and a client in front."""

import asyncio

import pytest

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.testing import FakeRemote, Reply

LIMITED = {"status": 429, "headers": {"Retry-After": "30"}, "json": {"error": "Too many requests"}}


@pytest.fixture(scope="module")
def shared_fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


@pytest.fixture
def fake(shared_fake):
    shared_fake.reset()
    yield shared_fake
    shared_fake.reset()


@pytest.fixture
def client(fake):
    with HybridClient(profile="tiny", base_url=fake.url, dtype="float32") as made:
        yield made


@pytest.fixture
def asynchronously(fake):
    """Run ``use(async_client)`` on a loop of its own."""

    def run(use):
        async def main():
            async with AsyncHybridClient(
                profile="tiny", base_url=fake.url, dtype="float32"
            ) as client:
                return await use(client)

        return asyncio.run(main())

    return run


@pytest.fixture
def limited(fake):
    """The remote's next answer is a 429."""
    fake.enqueue(Reply(**LIMITED))
    return fake
