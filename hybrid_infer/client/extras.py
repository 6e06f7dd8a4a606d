"""The options of a chat call that are sent to remotes as they are: judged first, where they are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hybrid_infer.client.checks import check_bool, check_json, checked_integer, checked_number
from hybrid_infer.errors import InvalidRequestError

# The bounds are OpenAI's, where it has the option.
MOST_ANSWERS = 128
MOST_TOP_LOGPROBS = 20
LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY = 0.01, 10.0  # OpenAI has none; vLLM asks for > 0
_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "frequency_penalty": lambda value, name: checked_number(value, name, -2.0, 2.0),
    "presence_penalty": lambda value, name: checked_number(value, name, -2.0, 2.0),
    "repetition_penalty": lambda value, name: checked_number(
        value, name, LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY
    ),
    "min_p": lambda value, name: checked_number(value, name, 0.0, 1.0),
    "n": lambda value, name: checked_integer(value, name, least=1, most=MOST_ANSWERS),
    "logprobs": check_bool,
    "top_logprobs": lambda value, name: checked_integer(
        value, name, least=0, most=MOST_TOP_LOGPROBS
    ),
}
# What asks for nothing beyond the ordinary, so that every target can honour it.
_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "tools": ([], ()),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
}


def checked_passthrough(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are sent on as they are, so they must be JSON; what asks for nothing is left out.

    Raises:
        InvalidRequestError: one is no JSON, or is known and wrong; the error names it.
    """
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        check_json(value, key)
        if key in _CHECKS:
            _CHECKS[key](value, key)
    given = {
        key: value
        for key, value in given.items()
        if key not in _NOTHING_ASKED or value not in _NOTHING_ASKED[key]
    }
    _check_tools(given)
    if "logprobs" not in given and given.pop("top_logprobs", 0):
        raise InvalidRequestError("top_logprobs needs logprobs=True", argument="top_logprobs")
    if "response_format" in given:
        given["response_format"] = _checked_response_format(given["response_format"])
    return given


def _check_tools(given: dict[str, Any]) -> None:
    if "tools" not in given:
        given.pop("parallel_tool_calls", None)  # it says how to call what there is not
    tools = given.get("tools", [])
    if not isinstance(tools, list | tuple) or not all(isinstance(t, Mapping) for t in tools):
        raise InvalidRequestError("tools must be a list of mappings", argument="tools")


def _checked_response_format(asked: Any) -> Mapping[str, Any]:
    """OpenAI's form of it; other types than OpenAI's are their remotes' business.

    ``{"type": "json_object", "schema": {…}}`` is llama.cpp's and Together's spelling of a schema, and
    ``"value"`` that of text-generation-inference, which says ``json`` too.

    Raises:
        InvalidRequestError: it is no mapping, or says something that nobody would obey.
    """
    if not isinstance(asked, Mapping):
        raise InvalidRequestError("response_format must be a mapping", argument="response_format")
    kind, rest = asked.get("type"), {k: v for k, v in asked.items() if k != "type"}
    if kind in ("json", "json_object") and rest.keys() in ({"schema"}, {"value"}):
        (schema,) = rest.values()
        kind, rest = "json_schema", {"json_schema": {"name": "answer", "schema": schema}}
    if kind not in ("json_object", "json_schema", "text"):
        return asked
    named = rest.pop("json_schema", None) if kind == "json_schema" else None
    if rest:
        raise InvalidRequestError(
            f"response_format of type {kind!r} has no key {next(iter(rest))!r}",
            argument="response_format",
        )
    if kind != "json_schema":
        return asked
    if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
        raise InvalidRequestError(
            "response_format must be {'type': 'json_schema', 'json_schema': "
            "{'name': …, 'schema': {…}}}",
            argument="response_format",
        )
    return {"type": kind, "json_schema": named}
