"""From a call's arguments to a frozen request: the only place where arguments are named and judged.

Everything wrong with a call is found here, before any dispatch, so that it is the same error
whichever backend would have served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_infer.client.checks import (
    check_bool,
    check_json,
    checked_integer,
    checked_nucleus,
    checked_number,
)
from hybrid_infer.client.extras import checked_passthrough
from hybrid_infer.client.texts import checked_text, checked_texts
from hybrid_infer.datatypes.long_texts import (
    CHARACTERS_PER_TOKEN,
    NEVER_CUT_CHARACTERS,
    cut_long_text,
)
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.settings import Settings

ROLES = ("system", "user", "assistant", "tool", "developer")
TOKENS_OF_MARKUP = 8  # role names and separators that a chat template adds to a message
LEAST_DEFAULT_TOKENS = 16
MOST_SEED = 2**63 - 1
_MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning"}
)
_EMPTY_FIELDS = frozenset({"audio", "function_call"})  # of OpenAI's, null in every answer of text
# Of these, include_obfuscation changes no answer.
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
_STREAM_ERROR_CHOICES = ("continue", "raise")


def embed_request(
    spec: ModelSpec, texts: Any, *, normalize: Any, truncate: Any, known: ModelSpec | None = None
) -> EmbedRequest:
    """Validate an ``embed`` call.

    Args:
        spec: the model, as the caller names it.
        texts: the caller's.
        normalize: the caller's.
        truncate: the caller's.
        known: `spec` with what its snapshot says, where one is here.

    Raises:
        InvalidRequestError: an argument is wrong.
        ContextLengthError: ``truncate=False`` and a text cannot fit.
    """
    check_bool(normalize, "normalize")
    check_bool(truncate, "truncate")
    checked = checked_texts(texts)
    longest = max(map(len, checked), default=0)
    known = known or spec
    prompt, most = known.prompt or "", known.max_seq_length
    if most is None or longest <= NEVER_CUT_CHARACTERS:
        return EmbedRequest(spec, checked, normalize, truncate, prompt=prompt)
    kept = [cut_long_text(text, most) for text in checked]
    cut = frozenset(index for index, text in enumerate(kept) if text.is_truncated)
    if cut and not truncate:
        first = min(cut)
        raise ContextLengthError(
            f"texts[{first}] has {len(checked[first]):,} characters and cannot fit the "
            f"{most} tokens of {spec.name}; pass truncate=True to cut it",
            argument=f"texts[{first}]",
        )
    return EmbedRequest(spec, tuple(text for text, _ in kept), normalize, truncate, cut, prompt)


def chat_request(
    spec: ModelSpec,
    messages: Any,
    settings: Settings,
    *,
    max_tokens: Any = None,
    temperature: Any = None,
    top_p: Any = None,
    top_k: Any = None,
    stop: Any = None,
    seed: Any = None,
    stream: Any = False,
    stream_options: Any = None,
    on_stream_error: Any = "continue",
    passthrough: Mapping[str, Any] | None = None,
) -> ChatRequest:
    """Validate a ``chat_completion`` call and fill in the alias's defaults.

    Raises:
        InvalidRequestError: an argument is wrong.
        ContextLengthError: the messages, or `max_tokens`, cannot fit the model's window.
    """
    check_bool(stream, "stream")
    if on_stream_error not in _STREAM_ERROR_CHOICES:
        raise InvalidRequestError(
            f"on_stream_error must be one of {_STREAM_ERROR_CHOICES}, not {on_stream_error!r}",
            argument="on_stream_error",
        )
    defaults = spec.generation
    tokens = _checked_max_tokens(max_tokens, spec)
    checked = _checked_messages(messages, settings.generation.max_messages)
    _check_prompt_size(spec, checked)
    return ChatRequest(
        spec=spec,
        messages=checked,
        max_tokens=_default_max_tokens(spec, checked) if tokens is None else tokens,
        max_tokens_is_default=tokens is None,
        temperature=_or(checked_number(temperature, "temperature", 0.0, 2.0), defaults.temperature),
        top_p=_or(checked_nucleus(top_p), defaults.top_p),
        top_k=_or(checked_integer(top_k, "top_k", least=1), defaults.top_k),
        stop=_checked_stop(stop, settings.generation.max_stop_strings),
        seed=checked_integer(seed, "seed", least=0, most=MOST_SEED),
        stream=stream,
        include_usage=_include_usage(stream_options, stream=stream),
        passthrough=checked_passthrough(passthrough or {}),
        continues=on_stream_error == "continue",
    )


def _check_prompt_size(spec: ModelSpec, messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a prompt that no tokenizer could fit, before it is tokenised or sent anywhere."""
    if spec.context_length is None:
        return
    most = spec.context_length * CHARACTERS_PER_TOKEN
    size = sum(len(str(message.get("content") or "")) for message in messages)
    if size > most:
        raise ContextLengthError(
            f"the messages have {size:,} characters; the {spec.context_length} tokens of "
            f"{spec.name} hold {most:,} at the very most",
            argument="messages",
        )


def _checked_max_tokens(value: Any, spec: ModelSpec) -> int | None:
    tokens = checked_integer(value, "max_tokens", least=1)
    if tokens is not None and spec.context_length is not None and tokens >= spec.context_length:
        raise ContextLengthError(
            f"max_tokens={tokens} leaves no room for a prompt: the window of {spec.name} has "
            f"{spec.context_length} tokens",
            argument="max_tokens",
            num_tokens=tokens + 1,
        )
    return tokens


def _default_max_tokens(spec: ModelSpec, messages: Sequence[Mapping[str, Any]]) -> int:
    """The alias's default, shrunk to the window that a prompt of this size surely leaves.

    No tokenizer makes more tokens than bytes, so a short prompt leaves the default as it is. For
    a long one three bytes a token is a cautious guess: the exact count is the backend's business.
    """
    most = spec.generation.max_tokens
    if spec.context_length is None:
        return most
    num_bytes = sum(len(str(message.get("content", "")).encode()) for message in messages)
    markup_tokens = TOKENS_OF_MARKUP * (len(messages) + 1)
    if num_bytes + markup_tokens + most <= spec.context_length:
        return most
    left = spec.context_length - num_bytes // 3 - markup_tokens
    return max(LEAST_DEFAULT_TOKENS, min(most, left))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _checked_messages(messages: Any, most: int) -> tuple[Mapping[str, Any], ...]:
    if isinstance(messages, str):
        return ({"role": "user", "content": checked_text(messages, "messages")},)
    if not isinstance(messages, Sequence) or isinstance(messages, bytes | bytearray):
        raise InvalidRequestError(
            "messages must be a str or a sequence of {'role': …, 'content': …}, "
            f"not {type(messages).__name__}",
            argument="messages",
        )
    if not messages:
        raise InvalidRequestError("messages must not be empty", argument="messages")
    if len(messages) > most:
        raise InvalidRequestError(
            f"messages holds {len(messages)} messages, more than {most}", argument="messages"
        )
    return tuple(_checked_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _checked_message(message: Any, argument: str) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(
            f"{argument} must be a mapping with 'role' and 'content', not {type(message).__name__}",
            argument=argument,
        )
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequestError(
            f"{argument}.role must be one of {', '.join(ROLES)}, not {role!r}",
            argument=f"{argument}.role",
        )
    if role == "assistant":
        message = _without_empty_fields(message)
    unknown = sorted(str(key) for key in set(message) - _MESSAGE_KEYS)
    if unknown:
        raise InvalidRequestError(
            f"{argument} has an unknown key {unknown[0]!r}", argument=f"{argument}.{unknown[0]}"
        )
    for key in message:
        if key not in ("role", "content"):
            check_json(message[key], f"{argument}.{key}")
    content = message.get("content")
    if content is None and role == "assistant" and message.get("tool_calls"):
        return dict(message)
    return {**message, "content": _checked_content(content, f"{argument}.content")}


def _without_empty_fields(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer without what OpenAI's own client says of it that changes no other answer."""
    return {
        key: value
        for key, value in message.items()
        if key != "annotations" and not (key in _EMPTY_FIELDS and value is None)
    }


def _checked_content(content: Any, argument: str) -> str | tuple[Mapping[str, Any], ...]:
    """A text, or OpenAI's list of parts; parts that are all text become one text."""
    if not isinstance(content, list | tuple):
        return checked_text(content, argument)
    parts: list[Mapping[str, Any]] = []
    for index, part in enumerate(content):
        where = f"{argument}[{index}]"
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise InvalidRequestError(f"{where} must be a mapping with a 'type'", argument=where)
        if part["type"] == "text":
            checked_text(part.get("text"), f"{where}.text")
        check_json(part, where)
        parts.append(dict(part))
    if not parts:
        raise InvalidRequestError(f"{argument} must not be an empty list", argument=argument)
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return tuple(parts)


def _checked_stop(stop: Any, most: int) -> tuple[str, ...]:
    if stop is None:
        return ()
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple):
        raise InvalidRequestError(
            f"stop must be a str or a list of str, not {type(stop).__name__}", argument="stop"
        )
    if len(strings) > most:
        raise InvalidRequestError(
            f"stop holds {len(strings)} strings, more than {most}", argument="stop"
        )
    for index, string in enumerate(strings):
        where = "stop" if isinstance(stop, str) else f"stop[{index}]"
        if not checked_text(string, where):
            raise InvalidRequestError(f"{where} must not be empty", argument=where)
    return tuple(strings)


def _include_usage(stream_options: Any, *, stream: bool) -> bool:
    if stream_options is None:
        return False
    if not stream:
        raise InvalidRequestError("stream_options needs stream=True", argument="stream_options")
    if not isinstance(stream_options, Mapping) or set(stream_options) - _STREAM_OPTIONS:
        raise InvalidRequestError(
            "stream_options must be {'include_usage': bool}", argument="stream_options"
        )
    for name in stream_options:
        check_bool(stream_options[name], f"stream_options.{name}")
    return bool(stream_options.get("include_usage", False))
