"""What is put before texts: the alias's prompt, else the snapshot's own, the same at every target."""

import json
import shutil
import threading

import numpy as np
import pytest

from hybrid_infer import HybridClient, RoutingSettings, Settings
from hybrid_infer.client.comparing import THREAD_NAME
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny_models
from hybrid_infer.snapshots.probes import CANARY_PROBES
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.tiny import write_tiny
from hybrid_infer.testing import EchoAnswers

OWN = "query: "
OTHER = "passage: "


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    twin = load_registry(profile="tiny").resolve("embeddings", "small")
    write_tiny(tiny_models.bert(twin), folder)
    return folder


@pytest.fixture(autouse=True)
def _hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def staging(tmp_path, plain_folder):
    """Stages the model as those with a prompt of their own; as org/plain, without one, it is here."""
    stage(plain_folder, ModelSpec("embeddings", None, "org/plain", None))
    folder = tmp_path / "model"
    shutil.copytree(plain_folder, folder)
    stated = {"prompts": {"query": OWN}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(stated))

    def bring():
        for repo in ("org/own", "org/bare"):  # no alias names the latter
            stage(folder, ModelSpec("embeddings", None, repo, None))
        stage(folder, ModelSpec("embeddings", None, "org/pinned", "0" * 40))

    return bring


@pytest.fixture
def fake(fake_remote_factory):
    return fake_remote_factory(answers=EchoAnswers(384))


@pytest.fixture
def opened(fake, staging):
    """A client of `fake` with these aliases."""
    clients = []

    def make(**options):
        aliases = {
            "plain": {"repo": "org/plain"},
            "plain-other": {"repo": "org/plain", "prompt": OTHER},
            "own": {"repo": "org/own"},
            "own-other": {"repo": "org/own", "prompt": OTHER},
            "own-none": {"repo": "org/own", "prompt": ""},
            "pinned": {"repo": "org/pinned", "revision": "0" * 40},
        }
        remote = {"name": "box", "dialect": "tei", "base_url": fake.url}
        models = {"embeddings": aliases, "remotes": [remote]}
        clients.append(HybridClient(models=models, dtype="float32", **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def expected(opened, staging):
    """The vector of a text with nothing put before it."""
    staging()
    client = opened(policy="local-only")
    return lambda text: client.embed(text, "plain").vectors


CASES = [("plain", ""), ("plain-other", OTHER), ("own", OWN), ("org/bare", OWN), ("own-other", OTHER),
         ("own-none", "")]  # fmt: skip


@pytest.mark.parametrize(("model", "prompt"), CASES)
def test_a_local_copy_puts_it_before_its_texts_and_says_so(opened, expected, model, prompt):
    result = opened(policy="local-only").embed("hello", model)
    assert result.space.prompt == prompt
    np.testing.assert_allclose(result.vectors, expected(prompt + "hello"), atol=1e-6)


def test_aliases_of_one_model_with_other_prompts_do_not_mix(opened, expected):
    client = opened(policy="local-only")
    assert len({expected(prompt + "hello").tobytes() for prompt in ("", OWN, OTHER)}) == 3
    for model, prompt in [*CASES, *CASES]:
        vectors = client.embed("hello", model).vectors
        np.testing.assert_allclose(vectors, expected(prompt + "hello"), atol=1e-6)


@pytest.mark.parametrize(("model", "prompt"), [*CASES, ("pinned", OWN)])
def test_a_remote_is_sent_the_same_and_lives_in_the_same_space(
    opened, staging, fake, model, prompt
):
    staging()
    client = opened(policy="remote-first")
    remote = client.embed("hello", model)
    assert (remote.route.backend, remote.space.prompt) == ("remote", prompt)
    assert fake.ledger[-1].body_json["inputs"] == [prompt + "hello"]
    assert client.embed("hello", model, route="local").space == remote.space


def test_a_remote_without_a_snapshot_here_says_what_it_was_sent(opened, staging, fake):
    client = opened(policy="remote-first")
    for model, prompt in [("own", ""), ("org/bare", ""), ("own-other", OTHER), ("own-none", "")]:
        remote = client.embed("hello", model)
        assert fake.ledger[-1].body_json["inputs"] == [prompt + "hello"]
        assert remote.space.prompt == prompt
    staging()
    client.warm("embeddings/own")
    local = client.embed("hello", "own", route="local")
    assert local.space.prompt == OWN
    assert local.space != opened(policy="remote-only").embed("hello", "own-none").space


def asked_before(client, texts="hello"):
    """A call whose arguments have been looked at, and which goes on later."""
    session = client._session
    request = session.embed_request(texts, "pinned", normalize=True, truncate=True)
    return lambda: client._embed(request, None, session.limit("embeddings", None))


def test_a_copy_that_comes_during_a_call_says_its_own_prompt(opened, staging, fake):
    client = opened(policy="local-first", cache=10)
    call = asked_before(client)
    staging()
    client.warm("embeddings/pinned")
    for _ in range(2):  # what the copy has made is not kept as if it had been made without a prompt
        result = call()
        assert (result.route.backend, result.space.prompt) == ("local", OWN)
    assert len(fake.ledger) == 0


def test_a_copy_that_comes_during_a_call_is_not_mixed_with_what_is_known(opened, staging):
    client = opened(policy="local-first", cache=10)
    first = client.embed("hello", "pinned")
    assert (first.route.backend, first.space.prompt) == ("remote", "")
    call = asked_before(client, ["hello", "you"])
    staging()
    client.warm("embeddings/pinned")
    both = call()
    assert (both.route.backend, both.space.prompt) == ("local", OWN)
    again = client.embed(["hello", "you"], "pinned", route="local")
    np.testing.assert_allclose(both.vectors, again.vectors, atol=1e-6)


def test_the_canary_compares_with_it(opened, staging, fake):
    staging()
    client = opened(
        policy="remote-first", settings=Settings(routing=RoutingSettings(canary="always"))
    )
    client.warm("embeddings/pinned")
    client.embed("hello", "pinned")
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(20)
    asked = [request.body_json["inputs"] for request in fake.ledger]
    assert asked == [[OWN + "hello"], [OWN + probe.text for probe in CANARY_PROBES]]
