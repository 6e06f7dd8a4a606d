"""`cache=` over real TCP, sync and async: what is not asked again, and what is never mixed."""

import asyncio
from functools import partial

import numpy as np
import pytest

from hybrid_infer import (
    AsyncHybridClient,
    EngineClosedError,
    HybridClient,
    InvalidRequestError,
    Reason,
    RemoteServerError,
)
from hybrid_infer.events import CacheLookedUp, CallFinished
from hybrid_infer.testing import FakeRemote, Reply

LIMITED = {"status": 429, "headers": {"Retry-After": "30"}, "json": {"error": "Too many requests"}}
CHAT = {"model": "small", "max_tokens": 8}


@pytest.fixture(scope="module")
def shared_fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


@pytest.fixture
def fake(shared_fake):
    shared_fake.reset()
    yield shared_fake
    shared_fake.reset()


class Awaited:
    """An `AsyncHybridClient` whose calls block, so that one test serves both clients."""

    def __init__(self, **options):
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(options))

    @staticmethod
    async def _make(options):
        return AsyncHybridClient(**options)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if not asyncio.iscoroutinefunction(method):
            return method
        return lambda *args, **options: self._runner.run(method(*args, **options))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
        self._runner.close()


@pytest.fixture(params=[HybridClient, Awaited], ids=["sync", "async"])
def make(request, fake):
    return partial(request.param, profile="tiny", base_url=fake.url, dtype="float32", cache=100)


def bodies(fake):
    return [request.body_json["inputs"] for request in fake.ledger]


def test_a_text_is_asked_for_once(make, fake):
    seen = []
    with make(on_event=seen.append) as client:
        first = client.embed(["a", "b"], model="small")
        again = client.embed(["b", "a", "b"], model="small")
    assert len(fake.ledger) == 1
    assert (again.route.backend, again.route.reason) == ("cache", Reason.CACHE_HIT)
    assert (again.route.provider, again.route.attempts) == ("huggingface", ())
    assert again.route.detail == "first served by huggingface"
    assert again.space == first.space
    assert again.usage.prompt_tokens == 0
    np.testing.assert_array_equal(again.vectors, first.vectors[[1, 0, 1]])
    assert again.vectors.dtype == np.float32
    assert again.vectors.flags.c_contiguous
    looked = [(e.hits, e.misses) for e in seen if isinstance(e, CacheLookedUp)]
    assert looked == [(0, 2), (3, 0)]
    ends = [e.route.backend for e in seen if isinstance(e, CallFinished)]
    assert ends == ["remote", "cache"]


def test_only_missing_texts_are_computed(make, fake):
    with make() as client:
        client.embed(["a", "b"], model="small")
        mixed = client.embed(["new", "b", "newer", "a"], model="small")
    whole = HybridClient(profile="tiny", base_url=fake.url).embed(
        ["new", "b", "newer", "a"], model="small"
    )
    assert bodies(fake)[1] == ["new", "newer"]
    assert mixed.route.backend == "remote"
    assert mixed.route.detail == "2 of 4 texts from the cache"
    np.testing.assert_allclose(mixed.vectors, whole.vectors, atol=1e-6)


def test_vectors_of_two_backends_are_never_mixed(make, fake):
    with make() as client:
        client.embed(["a", "b"], model="small")
        fake.enqueue(Reply(**LIMITED))
        answer = client.embed(["a", "c"], model="small")
        assert (answer.route.backend, answer.route.reason) == ("local", Reason.RATE_LIMITED)
        assert "cache" not in answer.route.detail
        local = client.embed(["a", "c"], model="small", route="local")
        np.testing.assert_array_equal(answer.vectors, local.vectors)
        assert local.route.backend == "cache"

        # "a" is local now, "b" remote: the call is not answered from both.
        both = client.embed(["a", "b"], model="small")
    assert both.route.backend == "local"


def test_a_named_route_is_answered_from_nowhere_else(make, fake):
    with make() as client:
        client.embed("a", model="small")
        assert client.embed("a", model="small", route="remote").route.backend == "cache"
        assert client.embed("a", model="small", route="huggingface").route.backend == "cache"
        assert client.embed("a", model="small", route="local").route.backend == "local"
        assert client.embed("a", model="small", route="remote").route.backend == "remote"
        with pytest.raises(InvalidRequestError, match="names no target"):
            client.embed("a", model="small", route="nowhere")
        client.chat_completion("a", temperature=0, route="local", **CHAT)
        answer = client.chat_completion("a", temperature=0, route="remote", **CHAT)
        assert answer.route.backend == "remote"


def test_a_caller_may_write_into_what_it_got(make):
    with make() as client:
        first = client.embed(["a", "b"], model="small")
        kept = first.vectors.copy()
        first.vectors[:] = 0
        second = client.embed(["a", "b"], model="small")
        np.testing.assert_array_equal(second.vectors, kept)
        second.vectors[:] = 0
        np.testing.assert_array_equal(client.embed(["a", "b"], model="small").vectors, kept)


def test_another_space_is_another_text(make, fake):
    with make() as client:
        client.embed("a", model="small")
        other = client.embed("a", model="small", normalize=False)
        assert other.route.backend == "remote"
        assert client.embed("a", model="default").route.backend == "remote"
    assert len(fake.ledger) == 3


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({"temperature": 0}, "cache"),
        ({"temperature": 0.8, "seed": 3}, "cache"),
        ({"temperature": 0.8}, "remote"),
        ({}, "cache"),  # the alias is greedy by default
    ],
)
def test_a_chat_answer_that_would_be_the_same_is_kept(make, options, backend):
    with make() as client:
        first = client.chat_completion("hello", **CHAT, **options)
        again = client.chat_completion("hello", **CHAT, **options)
        assert again.route.backend == backend
        if backend == "cache":
            assert again.route.reason is Reason.CACHE_HIT
            assert (again.choices, again.usage) == (first.choices, first.usage)
        other = client.chat_completion("hello", **{**CHAT, "max_tokens": 7}, **options)
        assert other.route.backend == "remote"


def test_streams_are_not_kept(make, fake):
    with make() as client:
        for _ in range(2):
            client.chat_completion("hello", stream=True, temperature=0, **CHAT)
    assert len(fake.ledger) == 2


def test_failures_are_not_kept(make, fake):
    fake.enqueue(Reply(status=500), times=3)
    with make(policy="remote-only") as client:
        with pytest.raises(RemoteServerError):
            client.embed("a", model="small")
        assert client.embed("a", model="small").route.backend == "remote"


def test_a_closed_client_answers_nothing(make):
    with make() as client:
        client.embed("a", model="small")
        client.chat_completion("a", temperature=0, **CHAT)
        client.close()
        with pytest.raises(EngineClosedError):
            client.embed("a", model="small")
        with pytest.raises(EngineClosedError):
            client.chat_completion("a", temperature=0, **CHAT)


def test_the_oldest_text_is_forgotten(make, fake):
    with make(cache=2) as client:
        client.embed(["a", "b", "c"], model="small")
        assert client.embed(["b", "c"], model="small").route.backend == "cache"
        assert client.embed(["a"], model="small").route.backend == "remote"
