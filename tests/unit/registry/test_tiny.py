from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid_infer.datatypes.models import RemoteSpec
from hybrid_infer.errors import ConfigError, InvalidRequestError
from hybrid_infer.registry import TINY_REVISION, load_registry

BOX = {"name": "box", "dialect": "openai", "base_url": "http://10.0.0.5:8000"}


@pytest.fixture(scope="module")
def tiny():
    return load_registry(profile="tiny", environ={})


def test_every_alias_has_a_twin_with_its_own_limits(tiny, packaged):
    assert [spec.name for spec in tiny.models] == [spec.name for spec in packaged.models]
    for twin, real in zip(tiny.models, packaged.models, strict=True):
        repo = "tiny/" + real.repo.split("/")[1]
        assert twin == replace(real, repo=repo, revision=TINY_REVISION, gated=False)
    assert tiny.resolve("chat", "small").repo == "tiny/Phi-3-mini-4k-instruct"
    assert len(TINY_REVISION) == 40


def test_hub_ids_of_aliases_and_of_twins_are_known(tiny):
    small = tiny.resolve("embeddings", "small")
    assert tiny.resolve("embeddings", "sentence-transformers/all-MiniLM-L6-v2") == small
    assert tiny.resolve("embeddings", "tiny/all-MiniLM-L6-v2") == small
    assert tiny.resolve_named("tiny/all-MiniLM-L6-v2") == small


def test_other_models_have_no_twin(tiny):
    for model in ("org/other", "tiny/other"):
        with pytest.raises(InvalidRequestError, match="no seeded model for") as caught:
            tiny.resolve("chat", model)
        assert caught.value.argument == "model"
    models = {"chat": {"mine": {"repo": "org/mine"}}}
    registry = load_registry(models, profile="tiny", environ={})
    with pytest.raises(InvalidRequestError, match="no seeded model for 'org/mine'"):
        registry.resolve("chat", "mine")
    assert "chat/mine" not in {spec.name for spec in registry.models}


def test_an_alias_of_ones_own_on_a_packaged_repo_has_one():
    models = {"embeddings": {"mine": {"repo": "sentence-transformers/all-MiniLM-L6-v2"}}}
    registry = load_registry(models, profile="tiny", environ={})
    assert registry.resolve("embeddings", "mine").repo == "tiny/all-MiniLM-L6-v2"


def test_no_remotes_unless_brought(tiny):
    assert tiny.remotes == ()
    registry = load_registry(profile="tiny", base_url="http://127.0.0.1:9/", environ={})
    assert registry.remotes == (RemoteSpec("huggingface", "hf-router", "http://127.0.0.1:9"),)


def test_a_users_loopback_remotes_stay():
    remote = BOX | {
        "base_url": "http://localhost:1",
        "models": {"microsoft/Phi-3-mini-4k-instruct": "phi", "org/x": "x"},
    }
    registry = load_registry({"remotes": [remote]}, profile="tiny", environ={})
    served = (("tiny/Phi-3-mini-4k-instruct", "phi"), ("org/x", "x"))
    assert registry.remotes == (RemoteSpec("box", "openai", "http://localhost:1", None, served),)
    assert registry.remotes[0].model_id(registry.resolve("chat", "small")) == "phi"


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "https://router.huggingface.co"},
        {"base_url": "http://10.0.0.5"},
        {"models": {"remotes": [BOX]}},
        {"models": {"remotes": [{"name": "huggingface"}]}},
        {"models": {"remotes": [{"name": "huggingface"}, BOX]}, "base_url": "http://127.0.0.1:9"},
    ],
)
def test_real_and_seeded_answers_never_mix(arguments):
    with pytest.raises(ConfigError, match="must not mix"):
        load_registry(**arguments, profile="tiny", environ={})


def test_asked_in_code_or_in_the_environment(tiny):
    by_variable = load_registry(environ={"HYBRID_INFER_PROFILE": "tiny"})
    assert by_variable.profile == "tiny"
    assert by_variable.models == tiny.models


@pytest.mark.parametrize("profile", ["", "Tiny", "huge", 3])
def test_there_is_no_other_profile(profile):
    with pytest.raises(ConfigError, match=r"^profile is .*; the only profile is 'tiny'"):
        load_registry(profile=profile, environ={})
    with pytest.raises(ConfigError, match=r"^HYBRID_INFER_PROFILE is 'x'"):
        load_registry(environ={"HYBRID_INFER_PROFILE": "x"})
