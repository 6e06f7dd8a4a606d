"""Answers of the client in LangChain's shapes, and LangChain's choice of a tool in OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from hybrid_infer.datatypes.chat import ChatChoice, ChatChunk, ChatCompletion, ChatUsage, ToolCall
from hybrid_infer.datatypes.route import Route


def tool_choice_of(choice: str | bool | dict[str, Any]) -> Any:
    """LangChain's word for a tool's choice in OpenAI's shape."""
    if choice is True:
        return "required"
    if isinstance(choice, dict) or choice in ("auto", "none", "required"):
        return choice
    if choice == "any":
        return "required"
    return {"type": "function", "function": {"name": choice}}


def result_of(answer: ChatCompletion) -> ChatResult:
    """An answer; each of its choices is a generation."""
    generations = [_generation(choice, answer) for choice in answer.choices]
    return ChatResult(generations=generations, llm_output={"model_name": answer.model})


def _generation(choice: ChatChoice, answer: ChatCompletion) -> ChatGeneration:
    valid, invalid = _parsed(choice.message.tool_calls)
    message = AIMessage(
        content=choice.message.content or "",
        tool_calls=valid,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(answer.usage),
        response_metadata={
            **_metadata(answer.route),
            "finish_reason": choice.finish_reason,
            "logprobs": choice.logprobs,
        },
    )
    return ChatGeneration(message=message)


def _parsed(calls: Sequence[ToolCall]) -> tuple[list[LangChainToolCall], list[InvalidToolCall]]:
    """Tool calls with their arguments read, and those whose arguments are no JSON object."""
    valid: list[LangChainToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in calls:
        name, text = call.function.name, call.function.arguments
        try:
            arguments = json.loads(text or "{}")
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            valid.append(LangChainToolCall(name=name, args=arguments, id=call.id, type="tool_call"))
        else:
            invalid.append(
                InvalidToolCall(
                    name=name, args=text, id=call.id, error="not a JSON object",
                    type="invalid_tool_call",
                )
            )  # fmt: skip
    return valid, invalid


def chunk_of(chunk: ChatChunk) -> ChatGenerationChunk:
    """A chunk of the first choice, or the last one, which has the usage."""
    if not chunk.choices:
        usage = None if chunk.usage is None else _usage(chunk.usage)
        return ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=usage))
    choice = chunk.choices[0]
    metadata: dict[str, Any] = {}
    if choice.finish_reason is not None:
        metadata = {**_metadata(chunk.route), "finish_reason": choice.finish_reason}
    if choice.logprobs is not None:
        metadata["logprobs"] = choice.logprobs
    calls = [
        tool_call_chunk(
            name=call.function.name or None,
            args=call.function.arguments,
            id=call.id,
            index=call.index,
        )
        for call in choice.delta.tool_calls
    ]
    message = AIMessageChunk(
        content=choice.delta.content or "", tool_call_chunks=calls, response_metadata=metadata
    )
    return ChatGenerationChunk(message=message)


def _metadata(route: Route) -> dict[str, Any]:
    return {
        "model_name": route.model,
        "backend": route.backend,
        "provider": route.provider,
        "reason": str(route.reason),
    }


def _usage(usage: ChatUsage) -> UsageMetadata | None:
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
