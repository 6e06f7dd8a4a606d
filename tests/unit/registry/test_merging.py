from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid_infer.datatypes.models import GenerationDefaults, RemoteSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry import load_registry
from hybrid_infer.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load(models):
    return load_registry(models, environ={})


def test_nothing_given_changes_nothing(packaged):
    assert load({}) == packaged
    empty = {"chat": None, "embeddings": {}, "remotes": None, "settings": {"routing": None}}
    assert load(empty) == packaged


def test_an_alias_takes_the_keys_that_are_given(packaged):
    before = packaged.resolve("embeddings", "small")
    after = load({"embeddings": {"small": {"revision": COMMIT, "prompt": "query: "}}})
    assert after.resolve("embeddings", "small") == replace(
        before, revision=COMMIT, prompt="query: "
    )
    assert after.resolve("embeddings", "large") == packaged.resolve("embeddings", "large")


def test_a_prompt_that_is_empty_is_not_one_that_is_left_out():
    assert load({"embeddings": {"mine": {"repo": "org/x"}}}).resolve(
        "embeddings", "mine"
    ) == replace(
        load({"embeddings": {"mine": {"repo": "org/x", "prompt": ""}}}).resolve(
            "embeddings", "mine"
        ),
        prompt=None,
    )
    assert (
        load({"embeddings": {"small": {"prompt": None}}}).resolve("embeddings", "small").prompt
        is None
    )


def test_null_takes_a_pin_away():
    registry = load({"embeddings": {"small": {"revision": None}}})
    assert registry.resolve("embeddings", "small").revision is None


def test_another_repo_drops_what_described_the_old_one():
    spec = load({"chat": {"default": {"repo": "org/other"}}}).resolve("chat", "default")
    assert spec.repo == "org/other"
    assert spec.revision is None
    assert spec.context_length is None
    assert spec.generation == GenerationDefaults()
    assert not spec.gated


def test_the_same_repo_named_again_keeps_the_rest(packaged):
    before = packaged.resolve("embeddings", "small")
    after = load({"embeddings": {"small": {"repo": before.repo, "allow_quantized": True}}})
    assert after.resolve("embeddings", "small") == replace(before, allow_quantized=True)


def test_generation_is_merged_key_by_key():
    registry = load({"chat": {"default": {"generation": {"temperature": 0, "top_k": 5}}}})
    assert registry.resolve("chat", "default").generation == GenerationDefaults(
        max_tokens=1024, temperature=0.0, top_p=0.9, top_k=5
    )
    assert registry.resolve("chat", "large").generation.temperature == 0.6


def test_a_new_alias(packaged):
    registry = load(
        {"embeddings": {"legal": {"repo": "org/legal", "dim": 1024, "revision": COMMIT.upper()}}}
    )
    spec = registry.resolve("embeddings", "legal")
    assert (spec.repo, spec.dim, spec.revision) == ("org/legal", 1024, COMMIT)
    assert registry.models == (*packaged.models, spec)


def test_a_users_remotes_replace_the_list_and_inherit_by_name():
    registry = load(
        {
            "remotes": [
                {
                    "name": "box",
                    "dialect": "openai",
                    "base_url": "http://box.lan:8000/",
                    "key_env": "BOX_KEY",
                    "models": {"chat/small": "phi-3", "org/any": "any"},
                },
                {"name": "huggingface"},
            ]
        }
    )
    assert registry.remotes == (
        RemoteSpec(
            "box",
            "openai",
            "http://box.lan:8000",
            "BOX_KEY",
            (("chat/small", "phi-3"), ("org/any", "any")),
        ),
        RemoteSpec("huggingface", "hf-router", "https://router.huggingface.co"),
    )
    box = registry.remotes[0]
    assert box.model_id(registry.resolve("chat", "small")) == "phi-3"
    assert box.model_id(registry.resolve("chat", "org/any")) == "any"
    assert box.model_id(registry.resolve("chat", "large")) is None


def test_a_provider_is_pinned_per_chat_alias():
    registry = load({"chat": {"small": {"provider": "together"}}})
    remote = registry.remotes[0]
    small, default = (registry.resolve("chat", alias) for alias in ("small", "default"))
    assert remote.model_id(small) == f"{small.repo}:together"
    assert remote.model_id(default) == default.repo
    assert (
        load({"chat": {"small": {"repo": "org/other"}}}).resolve("chat", "small").provider is None
    )


def test_no_remotes_is_a_choice():
    assert load({"remotes": []}).remotes == ()


def test_a_remote_may_serve_a_users_own_alias():
    remote = {
        "name": "a",
        "dialect": "tei",
        "base_url": "http://h",
        "models": {"embeddings/mine": "m"},
    }
    registry = load({"embeddings": {"mine": {"repo": "org/mine"}}, "remotes": [remote]})
    assert registry.remotes[0].model_id(registry.resolve("embeddings", "mine")) == "m"


def test_settings_are_merged_one_by_one():
    settings = load({"settings": {"routing": {"chat_timeout_seconds": 60}}}).settings
    default = Settings()
    assert settings == replace(default, routing=replace(default.routing, chat_timeout_seconds=60.0))
    assert isinstance(settings.routing.chat_timeout_seconds, float)


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        (["chat/small"], r"remotes\[0\].models: a tei server does not serve chat"),
        (["embeddings/small", "embeddings/default"], "a tei server serves one model"),
        (["embeddings/small", "org/other"], "a tei server serves one model"),
        (["embeddings/small"], None),
        (["embeddings/small", "sentence-transformers/all-MiniLM-L6-v2"], None),
    ],
)
def test_a_tei_server_has_one_model(models, problem):
    remote = {
        "name": "a",
        "dialect": "tei",
        "base_url": "http://h",
        "models": dict.fromkeys(models, "m"),
    }
    if problem is None:
        assert load({"remotes": [remote]}).remotes[0].name == "a"
        return
    with pytest.raises(ConfigError, match=problem):
        load({"remotes": [remote]})
    assert load({"remotes": [{**remote, "dialect": "openai"}]}).remotes[0].name == "a"
