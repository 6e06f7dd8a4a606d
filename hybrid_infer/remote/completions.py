"""Chat replies in OpenAI's shape: validated, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from hybrid_infer.datatypes.chat import (
    ChatChoice,
    ChatDelta,
    ChatMessage,
    ChatUsage,
    ChunkChoice,
    FunctionCall,
    ToolCall,
)
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import ChatPart, ChatReply, Provenance
from hybrid_infer.errors import RemoteProtocolError
from hybrid_infer.remote.responses import Asked, notice_in

OK = 200


def malformed(asked: Asked, what: str) -> RemoteProtocolError:
    """A complete answer of the wrong shape; its status tells it from one that broke off."""
    return RemoteProtocolError(f"{asked.host}: {asked.repo}: {what}", status=OK)


def provenance_of(document: Mapping[str, Any], spec: ModelSpec, model_id: str) -> Provenance:
    """Who answered: verified if the reply names the model, with or without ``:provider``."""
    named = document.get("model")
    is_named = isinstance(named, str) and (
        named.casefold() == model_id.casefold()
        or named.partition(":")[0].casefold() == spec.repo.casefold()
    )
    return Provenance(model=spec.repo, revision=None, verified=is_named)


def identity_of(document: Mapping[str, Any]) -> tuple[str, int]:
    """A reply's identifier and its time of creation, made up where it names none."""
    given, created = document.get("id"), document.get("created")
    is_time = isinstance(created, int) and not isinstance(created, bool)
    return (
        given if isinstance(given, str) and given else f"chatcmpl-{uuid.uuid4().hex}",
        created if is_time and isinstance(created, int) else int(time.time()),
    )


def usage_of(document: Mapping[str, Any]) -> ChatUsage | None:
    """The token counts of a reply or chunk; None if it has none."""
    usage = document.get("usage")
    if not isinstance(usage, Mapping):
        return None
    return ChatUsage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def chat_reply(document: Any, spec: ModelSpec, model_id: str, asked: Asked) -> ChatReply:
    """A whole answer.

    Raises:
        RemoteProtocolError: it has another shape, no choices, or a choice without an end.
    """
    if not isinstance(document, Mapping):
        raise malformed(asked, "the answer is not a JSON object")
    if document.get("error"):
        said = asked.shown(notice_in(document).message)
        raise malformed(asked, f"the answer is an error: {said}")
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        raise malformed(asked, "the answer has no choices")
    identifier, created = identity_of(document)
    return ChatReply(
        id=identifier,
        created=created,
        choices=tuple(_choice(choice, place, asked) for place, choice in enumerate(choices)),
        usage=usage_of(document) or ChatUsage(None, None),
        provenance=provenance_of(document, spec, model_id),
    )


def _choice(choice: Any, place: int, asked: Asked) -> ChatChoice:
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        raise malformed(asked, "a choice has no message")
    finish_reason = choice.get("finish_reason")
    if not isinstance(finish_reason, str) or not finish_reason:
        raise malformed(asked, "a choice has no finish_reason")
    content, tool_calls = _content(message, asked), _tool_calls(message, asked)
    if content is None and not tool_calls:
        content = ""
    role = message.get("role")
    return ChatChoice(
        index=_index(choice, place),
        message=ChatMessage(role if isinstance(role, str) else "assistant", content, tool_calls),
        finish_reason=finish_reason,
        logprobs=choice.get("logprobs"),
    )


def chat_part(document: Mapping[str, Any], asked: Asked) -> ChatPart:
    """One chunk of an answer.

    Raises:
        RemoteProtocolError: it has another shape.
    """
    choices = document.get("choices")
    usage = usage_of(document)
    if choices is None and usage is not None:
        choices = []
    if not isinstance(choices, list):
        raise malformed(asked, "a chunk has no choices")
    return ChatPart(
        tuple(_chunk_choice(choice, place, asked) for place, choice in enumerate(choices)), usage
    )


def _chunk_choice(choice: Any, place: int, asked: Asked) -> ChunkChoice:
    if not isinstance(choice, Mapping):
        raise malformed(asked, "a chunk's choice is not an object")
    delta = choice.get("delta")
    if delta is None:
        delta = {}
    if not isinstance(delta, Mapping):
        raise malformed(asked, "a chunk's delta is not an object")
    finish_reason = choice.get("finish_reason")
    if finish_reason is not None and not isinstance(finish_reason, str):
        raise malformed(asked, "a chunk's finish_reason is not text")
    role = delta.get("role")
    return ChunkChoice(
        index=_index(choice, place),
        delta=ChatDelta(
            role if isinstance(role, str) else None,
            _content(delta, asked),
            _tool_calls(delta, asked),
        ),
        finish_reason=finish_reason or None,
        logprobs=choice.get("logprobs"),
    )


def part_of(reply: ChatReply) -> ChatPart:
    """A whole answer as the only part of a stream."""
    return ChatPart(
        tuple(
            ChunkChoice(
                choice.index,
                ChatDelta(choice.message.role, choice.message.content, choice.message.tool_calls),
                choice.finish_reason,
                choice.logprobs,
            )
            for choice in reply.choices
        ),
        reply.usage,
    )


def _index(choice: Mapping[str, Any], place: int) -> int:
    index = choice.get("index")
    is_index = isinstance(index, int) and not isinstance(index, bool) and index >= 0
    return index if is_index and isinstance(index, int) else place


def _content(holder: Mapping[str, Any], asked: Asked) -> str | None:
    content = holder.get("content")
    if content is not None and not isinstance(content, str):
        raise malformed(asked, "a message's content is not text")
    return content


def _tool_calls(holder: Mapping[str, Any], asked: Asked) -> tuple[ToolCall, ...]:
    calls = holder.get("tool_calls")
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise malformed(asked, "tool_calls is not a list")
    return tuple(_tool_call(call, place, asked) for place, call in enumerate(calls))


def _tool_call(call: Any, place: int, asked: Asked) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise malformed(asked, "a tool call has no function")
    name, arguments = function.get("name"), function.get("arguments")
    identifier, kind = call.get("id"), call.get("type")
    return ToolCall(
        id=identifier if isinstance(identifier, str) else None,
        function=FunctionCall(
            name if isinstance(name, str) else "", arguments if isinstance(arguments, str) else ""
        ),
        type=kind if isinstance(kind, str) else "function",
        index=_index(call, place),
    )
