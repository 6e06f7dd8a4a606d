"""What is put before texts: the alias's prompt, else the snapshot's own, the same at every target."""

import json
import shutil

import numpy as np
import pytest

from hybrid_infer import HybridClient
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny_models
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.tiny import write_tiny

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

    return bring


@pytest.fixture
def opened(fake_remote, staging):
    """A client of `fake_remote` with these aliases."""
    clients = []

    def make(**options):
        aliases = {
            "plain": {"repo": "org/plain"},
            "plain-other": {"repo": "org/plain", "prompt": OTHER},
            "own": {"repo": "org/own"},
            "own-other": {"repo": "org/own", "prompt": OTHER},
            "own-none": {"repo": "org/own", "prompt": ""},
        }
        remote = {"name": "box", "dialect": "tei", "base_url": fake_remote.url}
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


CASES = [
    ("plain", ""),
    ("plain-other", OTHER),
    ("org/bare", OWN),
    ("own-other", OTHER),
    ("own-none", ""),
]


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
