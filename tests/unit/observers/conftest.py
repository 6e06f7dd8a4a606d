"""Real calls over real TCP, for observers to watch."""

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.testing import FakeRemote, Reply

LIMITED = {"status": 429, "headers": {"Retry-After": "30"}, "json": {"error": "Too many requests"}}
PROMPT = "a very private prompt"


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
def watched(fake):
    """Make a client that an observer watches."""

    def make(observer, **options):
        return HybridClient(
            profile="tiny", base_url=fake.url, dtype="float32", on_event=observer,
            api_key="hf_very_secret", **options,
        )  # fmt: skip

    return make


@pytest.fixture
def limited(fake):
    """The remote's next answer is a 429."""
    fake.enqueue(Reply(**LIMITED))
    return fake


@pytest.fixture
def prompt():
    return PROMPT


@pytest.fixture
def broken_stream(fake):
    """The remote's next stream breaks off."""
    fake.enqueue(Reply(cut_after_events=3))
    return fake
