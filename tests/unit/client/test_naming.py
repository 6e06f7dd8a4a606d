"""What a Hub id means where no task is implied: the files that are here tell, and both tasks are dropped."""

import pytest

from hybrid_infer import HybridClient, ModelNotDownloadedError
from hybrid_infer.datatypes.long_texts import NEVER_CUT_CHARACTERS
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ContextLengthError
from hybrid_infer.events import ModelLoaded, ModelUnloaded
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny_models
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.tiny import write_tiny

REPO = "org/embedder"


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """An embedding model that no alias names."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    twin = load_registry(profile="tiny").resolve("embeddings", "small")
    write_tiny(tiny_models.bert(twin), tmp_path / "model")
    stage(tmp_path / "model", ModelSpec("embeddings", None, REPO, None))


@pytest.fixture
def events():
    return []


@pytest.fixture
def client(staged, events):
    with HybridClient(policy="local-only", on_event=events.append) as client:
        yield client


def loads(events):
    return [type(event) for event in events if isinstance(event, ModelLoaded | ModelUnloaded)]


def test_the_model_that_is_here_is_warmed_for_its_task(client, events):
    client.warm(REPO)
    assert loads(events) == [ModelLoaded]
    assert client.embed("hello", REPO).route.backend == "local"
    assert loads(events) == [ModelLoaded]


@pytest.mark.parametrize("name", [REPO, f"embeddings/{REPO}"])
def test_a_model_is_dropped_whichever_task_it_served(client, events, name):
    client.embed("hello", REPO)
    client.unload(f"chat/{REPO}")
    assert loads(events) == [ModelLoaded]
    client.unload(name)
    assert loads(events) == [ModelLoaded, ModelUnloaded]


def test_a_model_that_is_not_here_is_one_of_chat(client):
    with pytest.raises(ModelNotDownloadedError, match="org/other"):
        client.warm("org/other")
    client.unload("org/other")


def test_a_twin_is_dropped_by_its_hub_id(events):
    with HybridClient(profile="tiny", policy="local-only", on_event=events.append) as client:
        client.warm("embeddings/small")
        client.unload("sentence-transformers/all-MiniLM-L6-v2")
        assert loads(events) == [ModelLoaded, ModelUnloaded]


def test_a_very_long_text_is_cut_as_the_snapshot_says(client):
    long = "a " * NEVER_CUT_CHARACTERS * 100
    request = client._session.embed_request([long], REPO, normalize=True, truncate=True)
    assert request.cut_texts == {0}
    assert len(request.texts[0]) < len(long)
    with pytest.raises(ContextLengthError, match="the 256 tokens of org/embedder"):
        client.embed(long, REPO, truncate=False)
