"""`AsyncHybridClient`: the same methods, awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.client import caching, compat, inventory, results
from hybrid_infer.client.calls import PlannedCall
from hybrid_infer.client.drive import drive_async
from hybrid_infer.client.embed_streams import AsyncEmbedStreams
from hybrid_infer.client.options import ClientOptions
from hybrid_infer.client.planning import planned
from hybrid_infer.client.reporting import report_failure
from hybrid_infer.client.session import Session, passthrough_of
from hybrid_infer.client.streams import AsyncChatStream
from hybrid_infer.datatypes.chat import ChatCompletion
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.embeddings import Embeddings
from hybrid_infer.datatypes.parity import ParityReport
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.errors import HybridInferError
from hybrid_infer.events import Observer
from hybrid_infer.routing.state import Decision
from hybrid_infer.settings import Policy, Settings

Messages = str | Sequence[Mapping[str, Any]]
Texts = str | Sequence[str]
_ResultT = TypeVar("_ResultT")


class AsyncHybridClient(AsyncEmbedStreams):
    """`HybridClient` for asyncio: the same arguments and methods, the calls awaited.

    Raises:
        ConfigError: an argument, models.yaml, or an environment variable is wrong.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        profile: str | None = None,
        models: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        deadline: float | None = None,
        device: str = "auto",
        dtype: str = "auto",
        allow_download: bool = False,
        strict_auth: bool = False,
        cache: int | None = None,
        on_event: Observer | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._session = Session(ClientOptions(
            policy, profile, models, api_key, base_url, deadline, device, dtype,
            allow_download, strict_auth, cache, on_event, settings,
        ))  # fmt: skip
        self.chat = compat.AsyncChat(self)
        self.embeddings = compat.AsyncEmbeddingsEndpoint(self)

    async def embed(
        self,
        texts: Texts,
        model: str = "default",
        normalize: bool = True,
        truncate: bool = True,
        route: str | None = None,
        deadline: float | None = None,
    ) -> Embeddings:
        """`HybridClient.embed`, awaited."""
        limit = self._session.limit("embeddings", deadline)
        request = self._session.embed_request(texts, model, normalize=normalize, truncate=truncate)
        return await self._embed(request, route, limit)

    @overload
    async def chat_completion(
        self,
        messages: Messages,
        model: str = ...,
        *,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        top_p: float | None = ...,
        top_k: int | None = ...,
        stop: str | Sequence[str] | None = ...,
        seed: int | None = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        tool_choice: Any = ...,
        response_format: Mapping[str, Any] | None = ...,
        stream: Literal[False] = ...,
        stream_options: Mapping[str, Any] | None = ...,
        on_stream_error: str = ...,
        route: str | None = ...,
        deadline: float | None = ...,
        **extra: Any,
    ) -> ChatCompletion: ...

    @overload
    async def chat_completion(
        self,
        messages: Messages,
        model: str = ...,
        *,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        top_p: float | None = ...,
        top_k: int | None = ...,
        stop: str | Sequence[str] | None = ...,
        seed: int | None = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        tool_choice: Any = ...,
        response_format: Mapping[str, Any] | None = ...,
        stream: Literal[True],
        stream_options: Mapping[str, Any] | None = ...,
        on_stream_error: str = ...,
        route: str | None = ...,
        deadline: float | None = ...,
        **extra: Any,
    ) -> AsyncChatStream: ...

    async def chat_completion(
        self,
        messages: Messages,
        model: str = "default",
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        response_format: Mapping[str, Any] | None = None,
        stream: bool = False,
        stream_options: Mapping[str, Any] | None = None,
        on_stream_error: str = "continue",
        route: str | None = None,
        deadline: float | None = None,
        **extra: Any,
    ) -> ChatCompletion | AsyncChatStream:
        """`HybridClient.chat_completion`, awaited; a stream is closed with ``async with``."""
        limit = self._session.limit("chat", deadline)
        request = self._session.chat_request(
            messages, model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
            top_k=top_k, stop=stop, seed=seed, stream=stream, stream_options=stream_options,
            on_stream_error=on_stream_error,
            passthrough=passthrough_of(tools, tool_choice, response_format, extra),
        )  # fmt: skip
        return await self._chat(request, route, limit)

    async def feature_extraction(
        self, text: Texts, model: str = "default", normalize: bool = True, truncate: bool = True
    ) -> NDArray[np.float32]:
        """`HybridClient.feature_extraction`, awaited."""
        result = await self.embed(text, model, normalize, truncate)
        return compat.one_or_many(text, result.vectors)

    async def sentence_similarity(
        self, sentence: str, other_sentences: Sequence[str], model: str = "default"
    ) -> list[float]:
        """`HybridClient.sentence_similarity`, awaited."""
        texts = compat.compared_texts(sentence, other_sentences)
        return compat.similarities((await self.embed(texts, model)).vectors)

    def list_models(self) -> list[dict[str, Any]]:
        """Every alias: repo, revision, limits, who serves it, and what its local copy can do."""
        return inventory.list_models(self._session)

    async def pull(
        self, name: str, source: str | os.PathLike[str] | None = None, progress: bool = True
    ) -> Path:
        """`HybridClient.pull`, awaited."""
        return await asyncio.to_thread(
            inventory.pull, self._session, name, source, progress=progress
        )

    async def warm(self, names: str | Iterable[str]) -> None:
        """`HybridClient.warm`, awaited."""
        await asyncio.to_thread(inventory.warm, self._session, names)

    async def unload(self, names: str | Iterable[str]) -> None:
        """`HybridClient.unload`, awaited."""
        await asyncio.to_thread(inventory.unload, self._session, names)

    async def verify(self, name: str) -> ParityReport:
        """`HybridClient.verify`, awaited."""
        return await asyncio.to_thread(inventory.verify, self._session, name)

    def status(self) -> dict[str, Any]:
        """Every target's state: closed gates with reason and seconds left, local copies."""
        return inventory.status(self._session)

    def reset(self, target: str | None = None) -> None:
        """`HybridClient.reset`."""
        inventory.reset(self._session, target)

    async def close(self) -> None:
        """Release connections and local models. Later calls raise `EngineClosedError`."""
        await self._session.backends.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncHybridClient({self._session!r})"

    async def _embed(self, request: EmbedRequest, route: str | None, limit: Deadline) -> Embeddings:
        if not request.texts:
            return results.no_embeddings(self._session, request)
        lookup = caching.embedding_lookup(self._session, request, route)
        return await lookup.complete_async(
            lambda rest: self._run(rest, route, limit, results.embeddings)
        )

    async def _chat(
        self, request: ChatRequest, route: str | None, limit: Deadline
    ) -> ChatCompletion | AsyncChatStream:
        if request.stream:
            return await self._run(request, route, limit, results.async_chat_stream)
        lookup = caching.chat_lookup(self._session, request, route)
        return await lookup.complete_async(
            lambda rest: self._run(rest, route, limit, results.chat_completion)
        )

    async def _run(
        self,
        request: Request,
        route: str | None,
        limit: Deadline,
        finish: Callable[[Session, PlannedCall, Decision], _ResultT],
    ) -> _ResultT:
        started_at = self._session.clock()
        try:
            call = planned(self._session, request, route, limit)
            decision = await drive_async(call.flow, call.dispatch)
        except HybridInferError as error:
            report_failure(self._session, request, error, started_at)
            raise
        return finish(self._session, call, decision)
