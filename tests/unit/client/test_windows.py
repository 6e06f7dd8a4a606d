import numpy as np
import pytest

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.client import windows
from hybrid_infer.client.switching import Switching
from hybrid_infer.client.windows import WindowCutter, cut
from hybrid_infer.datatypes.parity import ParityReport, ProbeParity
from hybrid_infer.errors import EmbeddingSpaceMismatchError, InvalidRequestError

TEXTS = [f"text number {i}" for i in range(20)]


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(WindowCutter.__init__, "__defaults__", (8, 10_000))


@pytest.fixture
def make(fake_remote_factory):
    """A client with a healthy tiny remote, and that remote."""
    clients = []

    def build(kind=HybridClient, **options):
        remote = fake_remote_factory(answers="tiny")
        clients.append(kind(profile="tiny", base_url=remote.url, **options))
        return clients[-1], remote

    yield build
    for client in clients:
        client._session.backends.close()


def gone(remote):
    from hybrid_infer.testing import Reply

    limited = Reply(status=429, json={"error": "slow down"}, headers={"Retry-After": "600"})
    remote.respond_with(lambda _request: limited)


def test_a_window_ends_where_its_own_texts_say():
    cutter = WindowCutter(max_texts=3, max_characters=10)
    found = list(cut(["a", "b", "c", "d", "x" * 50, "e", "f"], len, cutter))
    assert found == [["a", "b", "c"], ["d", "x" * 50], ["e", "f"]]


def test_no_text_is_read_before_its_window_is_asked_for():
    read = []
    stream = cut((read.append(i) or str(i) for i in range(9)), len, WindowCutter(3))
    next(stream)
    assert read == [0, 1, 2]


def test_a_stream_is_its_windows_in_order(small_windows):
    with HybridClient(profile="tiny", policy="local-only") as client:
        results = list(client.embed_stream(iter(TEXTS), "small"))
        whole = [client.embed(TEXTS[i : i + 8], "small").vectors for i in (0, 8, 16)]
    assert [len(result) for result in results] == [8, 8, 4]
    for result, vectors in zip(results, whole, strict=True):
        assert np.array_equal(result.vectors, vectors)


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_async_stream_takes_both_kinds_of_iterables(small_windows, is_async):
    async def later():
        for text in TEXTS:
            yield text

    async with AsyncHybridClient(profile="tiny", policy="local-only") as client:
        stream = client.embed_stream(later() if is_async else iter(TEXTS), "small")
        assert [len(result) async for result in stream] == [8, 8, 4]


@pytest.mark.parametrize("texts", ["text", b"text", 5, None])
def test_what_is_no_iterable_of_texts_is_refused_at_once(texts):
    with (
        HybridClient(profile="tiny", policy="local-only") as client,
        pytest.raises(InvalidRequestError, match="iterable of str"),
    ):
        client.embed_stream(texts)


def test_after_verify_the_rest_goes_local_when_the_remote_is_limited(small_windows, make):
    client, remote = make()
    stream = client.embed_stream(TEXTS, "small")
    servers = []
    for result in stream:
        servers.append(result.route.backend)
        if len(servers) == 2:
            gone(remote)
    assert servers == ["remote", "remote", "local"]


def test_without_verify_a_stream_stays_with_whoever_began(small_windows, make, monkeypatch):
    client, remote = make(deadline=60)
    monkeypatch.setattr(client, "verify", lambda _name: None)
    stream = client.embed_stream(TEXTS, "small")
    assert next(stream).route.backend == "remote"
    gone(remote)
    with pytest.raises(Exception, match="slow down"):
        next(stream)


@pytest.mark.anyio
async def test_the_same_when_awaited(small_windows, make):
    client, remote = make(AsyncHybridClient)
    servers = []
    async for result in client.embed_stream(TEXTS, "small"):
        servers.append(result.route.backend)
        if len(servers) == 2:
            gone(remote)
    assert servers == ["remote", "remote", "local"]


def test_one_target_needs_no_verification(small_windows, make):
    client, remote = make(policy="remote-only")
    list(client.embed_stream(TEXTS, "small"))
    assert len(remote.ledger) == 3


def test_vectors_of_another_space_are_refused_twice_and_then_an_error():
    with HybridClient(profile="tiny", policy="local-only") as client:
        first, other = client.embed("a", "small"), client.embed("a", "small", normalize=False)
    switching = Switching("remote-first", ["r"], None)
    assert switching.accept(first)
    assert not switching.accept(other)
    assert switching.route == "local"
    with pytest.raises(EmbeddingSpaceMismatchError, match="served by local"):
        switching.check(other)


@pytest.mark.parametrize("is_ok", [True, False])
def test_windows_stay_with_whoever_served_the_first_unless_all_have_agreed(is_ok):
    switching = Switching("remote-first", ["r"], None, served_by="r")
    probe = ProbeParity("r", "a text")
    report = ParityReport("embeddings/small", "o/m", None, "remote:local", is_ok, probes=(probe,))
    switching.learn(report)
    assert switching.route == (None if is_ok else "r")


@pytest.mark.parametrize(
    ("policy", "remotes", "route", "is_due"),
    [
        ("remote-first", ["r"], None, True),
        ("local-first", ["r"], None, True),
        ("local-only", ["r"], None, False),
        ("remote-only", ["r"], None, False),
        ("remote-only", ["r", "s"], None, True),
        ("remote-first", ["r", "s"], "remote", True),
        ("remote-first", ["r", "s"], "s", False),
        ("remote-first", ["r"], "local", False),
        ("remote-first", [], None, False),
    ],
)
def test_verification_is_due_where_two_targets_may_serve(policy, remotes, route, is_due):
    assert not Switching(policy, remotes, route).is_verification_due
    assert Switching(policy, remotes, route, served_by="r").is_verification_due == is_due


def test_the_names_of_models_are_those_that_verify_knows():
    assert windows._verified_name("small") == "embeddings/small"
    assert windows._verified_name("org/name") == "org/name"
