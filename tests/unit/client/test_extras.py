"""Options beyond the signature: judged where they are known, left alone where they are not."""

import pytest

from hybrid_infer.client.extras import checked_passthrough
from hybrid_infer.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "{}"}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object", "schema": "{}"}}, "response_format"),
        (
            {"response_format": {"type": "json_object", "schema": {}, "value": {}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object", "strict": True}}, "response_format"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {}},
                    "value": {},
                }
            },
            "response_format",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_anybody_is_asked(options, argument):
    with pytest.raises(InvalidRequestError) as caught:
        checked_passthrough(options)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "options",
    [
        {"frequency_penalty": -2, "presence_penalty": 2.0, "repetition_penalty": 1.1, "min_p": 0.1},
        {"n": 128, "logprobs": True, "top_logprobs": 20},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "regex", "value": "a+"}},  # TGI's own
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"guided_choice": ["a", "b"]},
    ],
)
def test_what_is_right_or_unknown_is_sent_as_it_is(options):
    assert checked_passthrough(options) == options


@pytest.mark.parametrize("kind", ["json", "json_object"])
@pytest.mark.parametrize("key", ["schema", "value"])
def test_a_schema_is_one_however_it_is_spelled(kind, key):
    schema = {"type": "object", "required": ["a"]}
    openai_form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    asked = {"response_format": {"type": kind, key: schema}}
    assert checked_passthrough(asked) == {"response_format": openai_form}


def test_what_asks_for_nothing_is_left_out():
    nothing = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "min_p": 0,
        "n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "unset": None,
    }  # fmt: skip
    assert checked_passthrough(nothing) == {}
