"""The table of options: what is read from a request, and what takes the local copy out of a plan."""

import pytest

from hybrid_infer.client.requests import chat_request
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.local.generation import options as table
from hybrid_infer.local.generation.options import (
    HONOURED,
    GenerationOptions,
    options_of,
    unsupported_option,
)
from hybrid_infer.settings import Settings

SPEC = ModelSpec("chat", "small", "org/model", None)
JSON = {"type": "json_object"}
GIVEN = {
    "max_tokens": 7, "temperature": 0.5, "top_p": 0.25, "top_k": 3, "min_p": 0.1, "stop": ("a", "b"),
    "seed": 11, "frequency_penalty": 0.5, "presence_penalty": -1.0, "repetition_penalty": 1.5,
    "logprobs": True, "top_logprobs": 4, "n": 2, "response_format": JSON,
}  # fmt: skip
NAMED = ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed")


def request(messages="hi", **given):
    named = {name: given.pop(name) for name in NAMED if name in given}
    return chat_request(SPEC, messages, Settings(), **named, passthrough=given)


def test_every_option_of_the_table_is_read_from_where_the_request_keeps_it():
    assert set(GIVEN) == set(HONOURED)
    assert options_of(request(**GIVEN)) == GenerationOptions(**GIVEN)


def test_what_is_not_given_asks_for_nothing():
    assert options_of(request(max_tokens=7)) == GenerationOptions(7)


@pytest.mark.parametrize("option", HONOURED)
def test_every_option_of_the_table_keeps_local_in_the_plan(option):
    given = {option: GIVEN[option]}
    if option == "top_logprobs":
        given["logprobs"] = True
    assert unsupported_option(request(**given)) is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("logit_bias", {"5": 1}),
        ("best_of", 3),
        ("min_tokens", 3),
        ("guided_json", {}),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", {"a": 1}),
        ("prediction", {}),
        ("something_new", 0),
    ],
)
def test_any_other_takes_it_out_and_is_named(option, value):
    assert unsupported_option(request(**{option: value})) == (option, "")


def test_what_is_about_the_account_changes_no_answer():
    assert unsupported_option(request(user="me", store=True, metadata={"a": "b"})) is None


@pytest.mark.parametrize(
    ("messages", "option"),
    [
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "content"),
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "3"}], "tools"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "x"}]}],
            "tools",
        ),
    ],
)
def test_messages_that_no_template_renders_take_it_out(messages, option):
    assert unsupported_option(request(messages)) == (option, "")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(table.NEEDS_EXTRA, "response_format", "no_such_package")
    option, why = unsupported_option(request(response_format=JSON))
    assert option == "response_format"
    assert 'pip install "hybrid-infer[structured]"' in why
    assert "response_format" not in table.honoured_options()
    assert unsupported_option(request(top_k=3)) is None


def test_with_it_a_schema_that_cannot_be_obeyed_says_why():
    def why(schema):
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return unsupported_option(request(response_format=asked))

    assert why({"type": "object"}) is None
    assert why({"type": "strin"}) == ("response_format", "Invalid type: strin")
    assert why({"type": "array", "uniqueItems": True})[1].startswith("Unimplemented keys")
    assert "back to itself" in why({"allOf": [{"$ref": "#"}]})[1]
    assert "bytes" in why({"enum": ["x" * 40_000]})[1]
    assert unsupported_option(request(response_format={"type": "regex", "value": "a"})) == (
        "response_format",
        "its type is 'regex'",
    )
