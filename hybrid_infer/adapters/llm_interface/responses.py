"""What the interface gives back: results with where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid_infer.adapters.llm_interface.json_text import find_json, repair_json
from hybrid_infer.adapters.llm_interface.options import InterfaceOptions
from hybrid_infer.datatypes.chat import ChatCompletion, ChatUsage, ToolCall
from hybrid_infer.datatypes.embeddings import Embeddings, EmbeddingUsage
from hybrid_infer.datatypes.route import Route


@dataclass(frozen=True, slots=True)
class LLMResponse:
    """What a call gave.

    Attributes:
        success: whether `results` is what was asked for; False only where JSON was and none came.
        results: chat: the text without outer whitespace, or what its JSON says. Embeddings: a
            vector as a list of floats, or a list of them for a list of texts.
        total_time: milliseconds, repetitions and waits included.
        request_time: milliseconds of the last try.
        retries: repetitions.
        model: the repository id that answered.
        route: who served it, and why.
        usage: token counts.
        finish_reason: chat: why the answer ended.
        tool_calls: chat: what the answer asks to be called.
        original_response: the client's own result, if it was asked for.
        cache_type: the cache that knew the answer; None if none was asked or none knew.
    """

    success: bool
    results: Any
    total_time: float
    request_time: float
    retries: int
    model: str
    route: Route
    usage: ChatUsage | EmbeddingUsage
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    original_response: ChatCompletion | Embeddings | None = None
    cache_type: str | None = None


def chat_response(
    answer: ChatCompletion, how: InterfaceOptions, *, wants_json: bool
) -> LLMResponse:
    """The response that `answer` makes; its times are the caller's to fill in."""
    choice = answer.choices[0]
    text = (choice.message.content or "").strip()
    results: Any = text
    if wants_json and not choice.message.tool_calls:
        results = find_json(text)
        if results is None and how.attempt_json_repair:
            results = repair_json(text)
    return LLMResponse(
        success=results is not None,
        results=results,
        total_time=0.0,
        request_time=0.0,
        retries=0,
        model=answer.model,
        route=answer.route,
        usage=answer.usage,
        finish_reason=choice.finish_reason,
        tool_calls=choice.message.tool_calls,
    )


def embeddings_response(result: Embeddings, *, is_one: bool) -> LLMResponse:
    """The response that `result` makes; its times are the caller's to fill in."""
    lists = result.vectors.tolist()
    return LLMResponse(
        success=True,
        results=lists[0] if is_one else lists,
        total_time=0.0,
        request_time=0.0,
        retries=0,
        model=result.route.model,
        route=result.route,
        usage=result.usage,
    )
