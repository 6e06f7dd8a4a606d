"""A budget that holds one model: the remote goes on serving while the other one is loaded."""

import gc
import threading
import weakref

import pytest

from hybrid_infer import HybridClient, Settings
from hybrid_infer.events import ModelUnloaded
from hybrid_infer.local.embedding import encoders
from hybrid_infer.local.generation import decoders
from hybrid_infer.settings import MemorySettings
from hybrid_infer.testing import FakeRemote

BUDGET = 6_000_000  # bytes; the tiny models for chat claim between 3 and 5 million


@pytest.fixture
def slow_loads(monkeypatch):
    """Loads of chat models that begin and do not end before they are told to."""
    begun, gate, load = threading.Event(), threading.Event(), decoders.load_decoder

    def slow(path, placement):
        begun.set()
        assert gate.wait(60)
        return load(path, placement)

    monkeypatch.setattr(decoders, "load_decoder", slow)
    yield begun, gate
    gate.set()


def test_the_remote_serves_while_one_model_leaves_for_another(slow_loads):
    begun, gate = slow_loads
    events = []
    settings = Settings(memory=MemorySettings(budget_bytes=BUDGET))
    with (
        FakeRemote(answers="echo") as fake,
        HybridClient(
            profile="tiny", base_url=fake.url, settings=settings, on_event=events.append
        ) as client,
    ):
        gate.set()
        client.warm("chat/default")
        begun.clear()
        gate.clear()
        client._session.local.preload(client._session.registry.resolve("chat", "small"))
        assert begun.wait(30)
        assert [e for e in events if isinstance(e, ModelUnloaded)] == [
            ModelUnloaded("chat/default", "memory")
        ]
        for alias in ("small", "default"):
            answer = client.chat_completion("Hello", model=alias, max_tokens=3)
            assert answer.route.backend == "remote"
        assert client.status()["local"]["chat/small"]["state"] == "loading"
        gate.set()
        client.warm("chat/small")
        answer = client.chat_completion("Hello", model="small", max_tokens=3, route="local")
        assert answer.route.backend == "local"
        assert client.status()["local"]["chat/default"]["state"] == "cold"


def test_a_model_leaves_memory_although_the_application_has_frozen_what_it_had_loaded(monkeypatch):
    known, load = [], encoders.load_encoder

    def noted(*arguments):
        encoder = load(*arguments)
        known.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr(encoders, "load_encoder", noted)
    with HybridClient(profile="tiny", policy="local-only") as client:
        client.embed("Hello", "embeddings/small")
        gc.freeze()
        try:
            client.unload("embeddings/small")
            (encoder,) = known
            assert encoder() is None
        finally:
            gc.unfreeze()
