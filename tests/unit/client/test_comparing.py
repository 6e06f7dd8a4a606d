"""The canary over real TCP: a remote that swaps its model is left alone, and nobody waits."""

import asyncio
import logging
import threading

import pytest

from hybrid_infer import (
    AsyncHybridClient,
    AuthenticationError,
    EmbeddingSpaceMismatchError,
    HybridClient,
    Reason,
    RoutingSettings,
    Settings,
)
from hybrid_infer.client.comparing import THREAD_NAME
from hybrid_infer.events import RemoteQuarantined
from hybrid_infer.snapshots.probes import CANARY_PROBES
from hybrid_infer.testing import Reply

WATCHED = Settings(routing=RoutingSettings(canary="always"))
PATIENCE_SECONDS = 20.0


class ChangedTinyAnswers:
    """The tiny models' answers, or what `change` makes of them."""

    def __init__(self, tiny):
        self._tiny = tiny
        self.change = lambda vectors: vectors

    def embed(self, model, texts, **options):
        return self.change(self._tiny.embed(model, texts, **options))

    def chat(self, model, body):
        return self._tiny.chat(model, body)


@pytest.fixture
def tiny_answers(hybrid_infer_tiny_answers):
    return ChangedTinyAnswers(hybrid_infer_tiny_answers)


@pytest.fixture
def tiny_fake(fake_remote_factory, tiny_answers):
    return fake_remote_factory(answers=tiny_answers)


@pytest.fixture
def golden_fake(fake_remote_factory, golden_answers):
    return fake_remote_factory(answers=golden_answers)


def canaries():
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def join_canaries():
    for thread in canaries():
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _no_thread_stays():
    assert canaries() == []
    yield
    join_canaries()


def comparisons(fake):
    sent = [request.body_json["inputs"] for request in fake.ledger]
    return [texts for texts in sent if texts == [probe.text for probe in CANARY_PROBES]]


def test_a_swapped_model_is_served_locally_from_the_next_call_on(
    tiny_fake, tiny_answers, wrong, caplog
):
    tiny_answers.change = wrong
    events = []
    with HybridClient(
        profile="tiny", base_url=tiny_fake.url, dtype="float32", settings=WATCHED,
        on_event=events.append,
    ) as client:  # fmt: skip
        client.warm("embeddings/small")
        first = client.embed("a text", model="small")
        assert (first.route.backend, first.route.verified) == ("remote", False)
        join_canaries()
        second = client.embed("a text", model="small")
        assert (second.route.backend, second.route.reason) == ("local", Reason.BAD_RESPONSE)
        (remote,) = client.status()["remotes"].values()
        (closed,) = remote["closed"]
        assert (closed["scope"], closed["reason"]) == ("model", "bad_response")
        assert 3590 < closed["opens_in_seconds"] <= 3600
        assert "cosine" in closed["detail"]
        assert client.embed("a text", model="default").route.backend == "remote", "that model only"
    (quarantined,) = [event for event in events if isinstance(event, RemoteQuarantined)]
    assert (quarantined.model, quarantined.target) == ("embeddings/small", "huggingface")
    assert quarantined.cos_min < 0.999
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_the_cache_forgets_a_swapped_models_vectors(tiny_fake, tiny_answers, wrong):
    tiny_answers.change = wrong
    with HybridClient(
        profile="tiny", base_url=tiny_fake.url, dtype="float32", settings=WATCHED, cache=10
    ) as client:
        client.warm("embeddings/small")
        assert client.embed("a text", model="small").route.backend == "remote"
        join_canaries()
        assert client.embed("a text", model="small").route.backend == "local"
        assert client.embed("a text", model="small").route.backend == "cache"


def test_without_a_local_copy_the_next_call_is_an_error(golden_fake, golden_answers, wrong):
    golden_answers.change = wrong
    with HybridClient(base_url=golden_fake.url, settings=WATCHED) as client:
        assert client.embed("a", model="small").route.backend == "remote"
        join_canaries()
        sent = len(golden_fake.ledger)
        with pytest.raises(EmbeddingSpaceMismatchError, match="not those of sentence-transf"):
            client.embed("a", model="small")
        assert len(golden_fake.ledger) == sent
        # The caller says that it is mended: asked again, and looked at again at once.
        golden_answers.change = lambda vectors: vectors
        client.reset()
        assert client.embed("a", model="small").route.backend == "remote"
        join_canaries()
        assert client.embed("a", model="small").route.verified


def test_vectors_of_the_wrong_length_are_refused_in_every_call(
    tiny_fake, tiny_answers, unnormalised
):
    with HybridClient(
        profile="tiny", base_url=tiny_fake.url, dtype="float32", settings=WATCHED
    ) as client:
        client.warm("embeddings/small")
        assert client.embed("a", model="small").route.backend == "remote"
        join_canaries()
        tiny_answers.change = unnormalised
        served = client.embed("a", model="small")
        assert (served.route.backend, served.route.reason) == ("local", Reason.BAD_RESPONSE)


def test_the_true_model_is_compared_once_and_then_verified(golden_fake):
    with HybridClient(base_url=golden_fake.url, settings=WATCHED) as client:
        for expected in (False, True, True, True):
            assert client.embed("a", model="small").route.verified is expected
            join_canaries()
        assert len(comparisons(golden_fake)) == 1
        client.embed("a", model="default")
        join_canaries()
        assert len(comparisons(golden_fake)) == 2, "each model has its own"


def test_it_is_looked_at_again_in_an_hour(golden_fake, golden_answers, wrong, clock):
    with HybridClient(base_url=golden_fake.url, settings=WATCHED) as client:
        client._session.canary._clock = clock
        client.embed("a", model="small")
        join_canaries()
        golden_answers.change = wrong
        clock.advance(3599)
        assert client.embed("a", model="small").route.verified
        clock.advance(1)
        assert not client.embed("a", model="small").route.verified
        join_canaries()
        with pytest.raises(EmbeddingSpaceMismatchError):
            client.embed("a", model="small")


def test_loopback_is_not_watched_unless_asked(golden_fake, golden_answers, wrong):
    golden_answers.change = wrong
    with HybridClient(base_url=golden_fake.url) as client:
        for _ in range(3):
            assert client.embed("a", model="small").route.backend == "remote"
        assert canaries() == []
    assert len(golden_fake.ledger) == 3


def test_tiny_is_compared_only_where_local_is_warm(tiny_fake, tiny_answers, wrong):
    tiny_answers.change = wrong
    with HybridClient(profile="tiny", base_url=tiny_fake.url, settings=WATCHED) as client:
        client.embed("a", model="small")
        join_canaries()
        assert comparisons(tiny_fake) == []
        client.warm("embeddings/small")
        client.embed("a", model="small")
        join_canaries()
        assert len(comparisons(tiny_fake)) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_comparison_that_fails_condemns_nobody_and_asks_once(golden_fake, status):
    with HybridClient(base_url=golden_fake.url, settings=WATCHED) as client:
        golden_fake.enqueue(Reply())
        golden_fake.enqueue(Reply(status=status, headers={"Retry-After": "30"}))
        client.embed("a", model="small")
        join_canaries()
        assert len(golden_fake.ledger) == 2
        reasons = [
            closed["reason"]
            for remote in client.status()["remotes"].values()
            for closed in remote["closed"]
        ]
        assert "bad_response" not in reasons
        assert reasons == (["rate_limited"] if status == 429 else reasons), "its wait is kept"


def test_closing_waits_for_no_comparison(golden_fake):
    golden_fake.enqueue(Reply())
    golden_fake.enqueue(Reply(stall_after_bytes=0), times=None)
    client = HybridClient(base_url=golden_fake.url, settings=WATCHED)
    assert client.embed("a", model="small").route.backend == "remote"
    golden_fake.wait_for(2)
    (thread,) = canaries()
    client.close()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "closing ends it"


def test_async_calls_do_not_wait_either(golden_fake):
    golden_fake.enqueue(Reply())
    golden_fake.enqueue(Reply(stall_after_bytes=0), times=None)

    async def main():
        async with AsyncHybridClient(base_url=golden_fake.url, settings=WATCHED) as client:
            served = await client.embed("a", model="small")
            await asyncio.to_thread(golden_fake.wait_for, 2)
            return served

    assert asyncio.run(main()).route.backend == "remote"
    join_canaries()


def test_nothing_starts_before_a_remote_has_served(golden_fake):
    golden_fake.enqueue(Reply(status=401), times=None)
    with HybridClient(base_url=golden_fake.url, settings=WATCHED, policy="remote-only") as client:
        client.list_models()
        with pytest.raises(AuthenticationError):
            client.embed("a", model="small")
        assert canaries() == []
