from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.registry import load_registry

REGISTRY = load_registry(environ={})


def refused(task, model) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        REGISTRY.resolve(task, model)
    assert caught.value.argument == "model"
    return str(caught.value)


@pytest.mark.parametrize("task", ["chat", "embeddings"])
def test_bare_and_prefixed_aliases(task):
    aliases = [spec.alias for spec in REGISTRY.models if spec.task == task]
    for alias in aliases:
        spec = REGISTRY.resolve(task, alias)
        assert spec.name == f"{task}/{alias}"
        assert REGISTRY.resolve(task, spec.name) is spec


def test_another_task_is_refused():
    assert refused("chat", "embeddings/small") == (
        "'embeddings/small' is not for chat: write an alias or Hub id of it"
    )
    assert refused("embeddings", "agent") == (
        "unknown embeddings alias 'agent'; chat/agent is another task's; "
        "known: default, large, small, or any Hub id as org/name"
    )


def test_unknown_aliases():
    assert refused("chat", "smal") == (
        "unknown chat alias 'smal'; did you mean 'small'?; "
        "known: default, large, agent, small, or any Hub id as org/name"
    )
    assert "did you mean" not in refused("chat", "zzz")
    assert "abcdef" not in refused("chat", "hf_abcdefghijklmnopqrstuv")


def test_any_hub_id_without_a_pin():
    assert REGISTRY.resolve("chat", "org/name") == ModelSpec("chat", None, "org/name", None)
    assert REGISTRY.resolve("embeddings", "org/name").name == "org/name"
    assert REGISTRY.resolve("embeddings", "embeddings/org/name").repo == "org/name"


def test_the_hub_id_of_an_alias_is_that_model_with_its_pin():
    assert REGISTRY.resolve("embeddings", "sentence-transformers/sentence-t5-large") == (
        REGISTRY.resolve("embeddings", "large")
    )
    other_task = REGISTRY.resolve("embeddings", "microsoft/Phi-3-mini-4k-instruct")
    assert other_task.revision is None


@pytest.mark.parametrize(
    "model",
    ["../x", "a/../b", "/etc/passwd", "https://host/x", "a/b/c", "a/b@main", "chat/", "chat/a/b/c", "/",
     "", "Small", " small", "small\n", "tiny/all-MiniLM-L6-v2", "\ud800", "x" * 10_000,
     None, b"small", 3, ["small"]],
)  # fmt: skip
def test_not_a_model(model):
    assert len(refused("chat", model)) < 400


@given(st.text() | st.from_regex(r"[a-z./-]{0,12}", fullmatch=True))
def test_any_text_is_a_model_or_an_invalid_request(model):
    for resolve in (lambda name: REGISTRY.resolve("chat", name), REGISTRY.resolve_named):
        try:
            spec = resolve(model)
        except InvalidRequestError as error:
            assert error.argument == "model"  # noqa: PT017 - both ways of ending are right
        else:
            assert spec.repo.count("/") == 1
            assert ".." not in spec.repo


def test_named_aliases():
    assert REGISTRY.resolve_named("embeddings/small") is REGISTRY.resolve("embeddings", "small")
    assert REGISTRY.resolve_named("agent") is REGISTRY.resolve("chat", "agent")


def test_an_ambiguous_name_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        REGISTRY.resolve_named("small")
    assert str(caught.value) == (
        "'small' names two models, chat/small (microsoft/Phi-3-mini-4k-instruct) and "
        "embeddings/small (sentence-transformers/all-MiniLM-L6-v2); write which one"
    )


def test_named_hub_ids():
    small = REGISTRY.resolve("embeddings", "small")
    assert REGISTRY.resolve_named(small.repo) is small
    assert REGISTRY.resolve_named("org/x").task == "chat"
    assert REGISTRY.resolve_named("org/x", "embeddings").task == "embeddings"
    assert REGISTRY.resolve_named("embeddings/org/x").task == "embeddings"
    with pytest.raises(InvalidRequestError, match="unknown alias 'smol'; did you mean 'small'"):
        REGISTRY.resolve_named("smol")
