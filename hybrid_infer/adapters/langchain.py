"""LangChain's `Embeddings` and `BaseChatModel`; needs the extra ``langchain`` (langchain-core)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from threading import Lock
from typing import Any

from hybrid_infer.adapters.clients import Clients
from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.client.sync import HybridClient
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.snapshots.tokenizer import find_tokenizer

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import Field

    from hybrid_infer.adapters.langchain_answers import chunk_of, result_of, tool_choice_of
except ImportError as missing:
    raise ImportError(
        'the LangChain adapter needs langchain-core: pip install "hybrid-infer[langchain]"'
    ) from missing

_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "route", "deadline")
# Of all models, which hardly ever wait for it: one with a lock of its own could not be copied.
_CHANGES = Lock()


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

    @property
    def _clients(self) -> Clients:
        """Those of the fields, which a copy of the model, or whoever assigns to them, may change."""
        with _CHANGES:
            # No attribute of the model: what it has made for itself tells it from no other.
            known: Clients | None = self.__dict__.get("_known_clients")
            if known is None or not known.are_of(self.client, self.async_client):
                known = self.__dict__["_known_clients"] = Clients(self.client, self.async_client)
            return known

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of a text's tokens, by the tokenizer of the model's own copy; nothing is fetched.

        LangChain counts by it, as in ``trim_messages(token_counter=model)``.

        Raises:
            InvalidRequestError: there is no such model.
            ModelNotDownloadedError: its tokenizer is not on this machine.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        tokenizer = find_tokenizer(self._clients.chat_spec(self.model))
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

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
        # LangChain itself has seen to `stream`.
        return {**options, **{name: value for name, value in given.items() if name != "stream"}}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools; only targets that know tools can serve it.

        Args:
            tools: functions, models or schemas.
            tool_choice: ``auto``, ``none``, ``required``, ``any``, a tool's name, OpenAI's own form; True
                is ``required``; None and False leave it out.
            kwargs: further options to bind.
        """
        given = [convert_to_openai_tool(tool) for tool in tools]
        choice = {"tool_choice": tool_choice_of(tool_choice)} if tool_choice else {}
        return self.bind(tools=given, **choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's
        **kwargs: Any,
    ) -> ChatResult:
        options = self._options(stop, kwargs)
        return result_of(
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
        return result_of(await client.chat_completion(_sent(messages), self.model, **options))

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
                yield chunk_of(chunk)

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
                yield chunk_of(chunk)


def _sent(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    return convert_to_openai_messages(messages)


def _streamed(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a stream.

    Raises:
        InvalidRequestError: it would hold several answers, which LangChain joins to one message.
    """
    if (options.get("n") or 1) != 1:
        raise InvalidRequestError("a stream has one answer: n must be 1", argument="n")
    return {"stream_options": {"include_usage": True}, **options}
