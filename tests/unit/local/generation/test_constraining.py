"""Constrained answers on real tokenizers, by a model that wants nothing but to leave the grammar."""

import json

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer

from hybrid_infer.errors import InvalidRequestError, LocalEngineError
from hybrid_infer.local.generation import constraining
from hybrid_infer.local.generation.constraining import Constraint
from hybrid_infer.local.generation.engine import end_tokens
from hybrid_infer.local.generation.grammars import grammar_of
from hybrid_infer.local.generation.prompting import Prompter
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

REGISTRY = load_registry(profile="tiny")
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ü"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(wanted):
    return grammar_of({"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}})


@pytest.fixture(scope="module", params=["default", "small"])
def model(request):
    spec = REGISTRY.resolve("chat", request.param)
    path = find_snapshot(spec)
    return Prompter(path, spec.context_length), end_tokens(path)


def answer(model, grammar, seed, most=400, padding=0):
    """Tokens drawn by chance from what the grammar allows, and whether they came to an end."""
    prompter, ends = model
    constraint = Constraint(prompter.grammar_vocabulary(ends), grammar)
    chance, tokens = np.random.default_rng(seed), []
    size = len(prompter.pieces) + padding
    for _ in range(most):
        logits = constraint.adjusted(torch.from_numpy(chance.gumbel(size=size)))
        assert not padding or not torch.isfinite(logits[-padding:]).any()
        token = int(logits.argmax())
        if token in ends:
            return prompter.decode(tokens), True
        constraint.push(token)
        tokens.append(token)
        if constraint.is_complete:
            return prompter.decode(tokens), True
    return prompter.decode(tokens), False


def test_every_answer_that_ends_obeys_the_schema(model):
    grammar, num_ended = schema(PERSON), 0
    for seed in range(40):
        text, has_ended = answer(model, grammar, seed)
        if has_ended:
            num_ended += 1
            person = json.loads(text)
            assert set(person) <= set(PERSON["properties"])
            assert len(person["name"]) <= 12
            assert 0 <= person["age"] <= 150
            assert set(person.get("tags", [])) <= {"a", "b", "ü"}
    assert num_ended > 30


def test_json_mode_gives_an_object(model):
    ended = [answer(model, grammar_of({"type": "json_object"}), seed) for seed in range(30)]
    texts = [text for text, has_ended in ended if has_ended]
    assert texts
    assert all(isinstance(json.loads(text), dict) for text in texts)


def test_logits_wider_than_the_vocabulary_stay_ruled_out(model):
    text, has_ended = answer(model, schema({"enum": ["x", "yy"]}), 3, padding=53)
    assert has_ended
    assert json.loads(text) in ("x", "yy")


def test_blanks_have_an_end(model):
    prompter, ends = model
    constraint = Constraint(prompter.grammar_vocabulary(ends), schema({"type": "object"}))
    blanks = [t for t in range(len(prompter.pieces)) if prompter.spell(t) in (b" ", b"\n", b"{")]
    for _ in range(60):
        logits = torch.zeros(len(prompter.pieces))
        logits[blanks] = 9.0
        token = int(constraint.adjusted(logits).argmax())
        constraint.push(token)
        if token not in blanks:
            return
    pytest.fail("blanks without end")


def test_a_grammar_too_large_for_the_vocabulary_is_the_callers(model, monkeypatch):
    monkeypatch.setattr(constraining, "COMPILE_FUEL", 10)
    prompter, ends = model
    with pytest.raises(InvalidRequestError) as caught:
        Constraint(prompter.grammar_vocabulary(ends), schema(PERSON))
    assert caught.value.argument == "response_format"


def test_a_step_too_costly_is_an_error_of_its_answer(model, monkeypatch):
    monkeypatch.setattr(constraining, "STEP_FUEL", 1)
    hostile = schema({"type": "string", "pattern": "^(a|b)*a(a|b){200}$"})
    with pytest.raises(LocalEngineError, match="response_format is too costly"):
        answer(model, hostile, 3)


def test_an_answer_that_no_token_can_follow_is_not_called_too_costly():
    circle = LLMatcher.grammar_from_json_schema('{"$ref": "#"}')  # which `grammar_of` refuses
    constraint = Constraint(LLTokenizer("byte"), circle)
    with pytest.raises(LocalEngineError, match="none of the model's tokens"):
        constraint.adjusted(torch.zeros(258))
