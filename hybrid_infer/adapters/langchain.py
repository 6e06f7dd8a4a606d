"""LangChain's `Embeddings` and `BaseChatModel`; needs the extra ``langchain`` (langchain-core)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from hybrid_infer.adapters.clients import Clients
from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.client.sync import HybridClient
from hybrid_infer.datatypes.chat import ChatChoice, ChatChunk, ChatCompletion, ChatUsage, ToolCall
from hybrid_infer.datatypes.route import Route

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        InvalidToolCall,
        convert_to_openai_messages,
    )
    from langchain_core.messages import ToolCall as LangChainToolCall
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import Field
except ImportError as missing:
    raise ImportError(
        'the LangChain adapter needs langchain-core: pip install "hybrid-infer[langchain]"'
    ) from missing

_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "route", "deadline")


class HybridInferEmbeddings(Embeddings):
    """Embeddings for LangChain.

    Args:
        model: an alias or a Hub id.
        client: serves blocking calls, and awaited ones if there is no `async_client`; None: a
            `HybridClient()`.
        async_client: serves awaited calls.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        client: HybridClient | None = None,
        async_client: AsyncHybridClient | None = None,
    ) -> None:
        self.model = model
        self._clients = Clients(client, async_client)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return _lists(self._clients.blocking.embed(texts, self.model))

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents`, awaited."""
        return _lists(await self._clients.embed(texts, self.model))

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query`, awaited."""
        return (await self.aembed_documents([text]))[0]


def _lists(result: Any) -> list[list[float]]:
    vectors: list[list[float]] = result.vectors.tolist()
    return vectors


class ChatHybridInfer(BaseChatModel):
    """A chat model for LangChain.

    Who served a message is in its ``response_metadata``: ``backend``, ``reason``, ``model_name``.
    Fields but for the clients are those of `HybridClient.chat_completion`; None leaves one out.
    """

    model: str = "default"
    client: HybridClient | None = Field(default=None, exclude=True)
    async_client: AsyncHybridClient | None = Field(default=None, exclude=True)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    route: str | None = None
    deadline: float | None = None

    @cached_property
    def _clients(self) -> Clients:
        return Clients(self.client, self.async_client)

    @property
    def _llm_type(self) -> str:
        return "hybrid-infer"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, **self._options(None, {})}

    def _options(self, stop: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
        """The options of one call: the model's own, then those it was bound to or called with."""
        own = {name: getattr(self, name) for name in _OPTIONS}
        options = {name: value for name, value in own.items() if value is not None}
        if stop is not None:
            options["stop"] = stop
        return {**options, **given}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools; only targets that know tools can serve it."""
        given = [convert_to_openai_tool(tool) for tool in tools]
        choice = {} if tool_choice is None else {"tool_choice": _tool_choice(tool_choice)}
        return self.bind(tools=given, **choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's
        **kwargs: Any,
    ) -> ChatResult:
        options = self._options(stop, kwargs)
        return _result(
            self._clients.blocking.chat_completion(_sent(messages), self.model, **options)
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        client = self._clients.asynchronous
        if client is None:  # LangChain calls `_generate` on a thread
            return await super()._agenerate(messages, stop, run_manager, **kwargs)
        options = self._options(stop, kwargs)
        return _result(await client.chat_completion(_sent(messages), self.model, **options))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        options = _streamed(self._options(stop, kwargs))
        client = self._clients.blocking
        with client.chat_completion(_sent(messages), self.model, stream=True, **options) as chunks:
            for chunk in chunks:
                yield _chunk(chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        client = self._clients.asynchronous
        if client is None:  # LangChain runs `_stream` on a thread
            async for part in super()._astream(messages, stop, run_manager, **kwargs):
                yield part
            return
        options = _streamed(self._options(stop, kwargs))
        opened = await client.chat_completion(_sent(messages), self.model, stream=True, **options)
        async with opened as chunks:
            async for chunk in chunks:
                yield _chunk(chunk)


def _sent(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    return convert_to_openai_messages(messages)


def _streamed(options: dict[str, Any]) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}, **options}


def _tool_choice(choice: str) -> Any:
    """LangChain's word for a tool's choice in OpenAI's shape."""
    if choice in ("auto", "none", "required"):
        return choice
    if choice == "any":
        return "required"
    return {"type": "function", "function": {"name": choice}}


def _result(answer: ChatCompletion) -> ChatResult:
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


def _chunk(chunk: ChatChunk) -> ChatGenerationChunk:
    """A chunk of the first choice, or the last one, which has the usage."""
    if not chunk.choices:
        usage = None if chunk.usage is None else _usage(chunk.usage)
        return ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=usage))
    choice = chunk.choices[0]
    metadata: dict[str, Any] = {}
    if choice.finish_reason is not None:
        metadata = {**_metadata(chunk.route), "finish_reason": choice.finish_reason}
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
