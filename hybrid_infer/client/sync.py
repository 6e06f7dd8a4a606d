"""`HybridClient`: the blocking client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.client import caching, compat, inventory, results
from hybrid_infer.client.calls import PlannedCall
from hybrid_infer.client.drive import drive
from hybrid_infer.client.embed_streams import EmbedStreams
from hybrid_infer.client.options import ClientOptions
from hybrid_infer.client.planning import planned
from hybrid_infer.client.reporting import report_failure
from hybrid_infer.client.session import Session, passthrough_of
from hybrid_infer.client.streams import ChatStream
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
_ChatResult = ChatCompletion | ChatStream


class HybridClient(EmbedStreams):
    """Chat and embeddings from the remote, or from a local copy of the very same model.

    Args:
        policy: ``remote-first`` (default), ``local-first``, ``remote-only`` or ``local-only``;
            None means $HYBRID_INFER_POLICY, else ``remote-first``.
        profile: ``"tiny"``: small seeded models for every alias; None means $HYBRID_INFER_PROFILE.
        models: path of a models.yaml, or the same as a mapping, merged by alias over the packaged
            one; None means $HYBRID_INFER_MODELS.
        api_key: the first remote's key, unless that has a ``key_env`` elsewhere than at Hugging
            Face; None looks in HF_TOKEN, HUGGING_FACE_HUB_TOKEN, the saved login,
            HUGGINGFACE_API_KEY, HUGGINGFACEHUB_API_TOKEN, in this order.
        base_url: replaces the first remote's URL.
        deadline: seconds that bound a whole call, every attempt included; None: 30 s (embed) or
            120 s (chat) without progress.
        device: ``auto`` (CUDA, else CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` (bfloat16 where computed natively, else float32) or a dtype's name.
        allow_download: whether a missing local copy may be downloaded by a call.
        strict_auth: raise when a remote refuses the key, instead of falling back.
        cache: how many vectors and repeatable chat answers are remembered in memory; None: none.
        on_event: called with each event of `hybrid_infer.events`, on the thread that causes it.
        settings: everything else; replaces models.yaml's ``settings:``.

    Raises:
        ConfigError: any of these, models.yaml, or an environment variable is wrong.
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
        self.chat = compat.Chat(self)
        self.embeddings = compat.EmbeddingsEndpoint(self)

    def embed(
        self,
        texts: Texts,
        model: str = "default",
        normalize: bool = True,
        truncate: bool = True,
        route: str | None = None,
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed texts.

        Args:
            texts: one string or a sequence of n strings; the empty string is a text like any other.
            model: an alias (``default``, ``large``, ``small``) or a Hub id.
            normalize: whether vectors have unit length; False is another embedding space.
            truncate: whether over-long texts are cut at the model's limit.
            route: ``"local"``, ``"remote"`` or a remote's name; None leaves it to the policy.
            deadline: seconds for this call; None: the client's.

        Returns:
            Vectors, float32 ``(n, dim)``: ``(1, dim)`` for one string, ``(0, dim)`` for none; with
            route, usage and space.

        Raises:
            InvalidRequestError: an argument is wrong; it names the argument and index.
            ContextLengthError: ``truncate=False`` and a text is too long.
            HybridInferError: no target could serve the call; see `hybrid_infer.errors`.
        """
        limit = self._session.limit("embeddings", deadline)
        request = self._session.embed_request(texts, model, normalize=normalize, truncate=truncate)
        return self._embed(request, route, limit)

    @overload
    def chat_completion(
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
    def chat_completion(
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
    ) -> ChatStream: ...

    def chat_completion(
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
    ) -> ChatCompletion | ChatStream:
        """Answer a conversation.

        Args:
            messages: one string (a user message) or messages in OpenAI's shape.
            model: an alias (``default``, ``large``, ``agent``, ``small``) or a Hub id.
            max_tokens: new tokens at most; None: the alias's default.
            temperature: 0 (greedy) to 2; None: the alias's default.
            top_p: nucleus mass in (0, 1]; None: the alias's default.
            top_k: candidates kept at each step, at least 1; None: the alias's default.
            stop: strings that end the answer; they are not part of it.
            seed: makes sampling reproducible on one backend.
            tools: tool definitions; only targets that know tools can serve the call.
            tool_choice: which tool, in OpenAI's shape.
            response_format: JSON mode or schema, in OpenAI's shape; locally with the extra ``structured``.
            stream: return a `ChatStream` of chunks instead of one answer.
            stream_options: ``{"include_usage": True}`` adds a last chunk with token counts.
            on_stream_error: ``"raise"``, or ``"continue"`` to let a target that can take over a
                broken stream do so; where none can, both raise `StreamInterruptedError`.
            route: ``"local"``, ``"remote"`` or a remote's name; None leaves it to the policy.
            deadline: seconds for this call; None: the client's.
            **extra: further options, passed to remotes as they are; a target that does not know
                one does not serve the call. Local ones know ``frequency_``, ``presence_`` and
                ``repetition_penalty``, ``min_p``, ``logprobs``, ``top_logprobs`` and ``n``.

        Raises:
            InvalidRequestError: an argument is wrong; it names the argument and index.
            ContextLengthError: prompt and `max_tokens` do not fit the model's window.
            HybridInferError: no target could serve the call; see `hybrid_infer.errors`.
        """
        limit = self._session.limit("chat", deadline)
        request = self._session.chat_request(
            messages, model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
            top_k=top_k, stop=stop, seed=seed, stream=stream, stream_options=stream_options,
            on_stream_error=on_stream_error,
            passthrough=passthrough_of(tools, tool_choice, response_format, extra),
        )  # fmt: skip
        return self._chat(request, route, limit)

    def feature_extraction(
        self, text: Texts, model: str = "default", normalize: bool = True, truncate: bool = True
    ) -> NDArray[np.float32]:
        """`embed` in huggingface_hub's shape: float32 ``(dim,)``, or ``(n, dim)`` for a sequence."""
        return compat.one_or_many(text, self.embed(text, model, normalize, truncate).vectors)

    def sentence_similarity(
        self, sentence: str, other_sentences: Sequence[str], model: str = "default"
    ) -> list[float]:
        """The cosine of `sentence` with each of `other_sentences`, in their order."""
        texts = compat.compared_texts(sentence, other_sentences)
        return compat.similarities(self.embed(texts, model).vectors)

    def list_models(self) -> list[dict[str, Any]]:
        """Every alias: repo, revision, limits, who serves it, and what its local copy can do."""
        return inventory.list_models(self._session)

    def pull(
        self, name: str, source: str | os.PathLike[str] | None = None, progress: bool = True
    ) -> Path:
        """Download a model (``embeddings/small``, ``chat/small``, ``org/name``) to the Hub's cache.

        Args:
            name: what to fetch.
            source: a local folder to stage instead of downloading.
            progress: whether progress bars are drawn.

        Returns:
            The snapshot's folder.

        Raises:
            ModelNotAvailableError: gated or unknown; the message has the link.
            APIConnectionError: the Hub cannot be reached, or an offline variable is set.
        """
        return inventory.pull(self._session, name, source, progress=progress)

    def warm(self, names: str | Iterable[str]) -> None:
        """Load local copies now, so that a later fallback does not wait for them."""
        inventory.warm(self._session, names)

    def unload(self, names: str | Iterable[str]) -> None:
        """Drop loaded local copies from memory."""
        inventory.unload(self._session, names)

    def verify(self, name: str) -> ParityReport:
        """Compare remotes with local, or with goldens; nothing to compare: `UnverifiableError`."""
        return inventory.verify(self._session, name)

    def status(self) -> dict[str, Any]:
        """Every target's state: closed gates with reason and seconds left, local copies."""
        return inventory.status(self._session)

    def reset(self, target: str | None = None) -> None:
        """Forget what is closed and what was learned, of every remote or of the one named."""
        inventory.reset(self._session, target)

    def close(self) -> None:
        """Release connections and local models. Later calls raise `EngineClosedError`."""
        self._session.backends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HybridClient({self._session!r})"

    def _embed(self, request: EmbedRequest, route: str | None, limit: Deadline) -> Embeddings:
        if not request.texts:
            return results.no_embeddings(self._session, request)
        lookup = caching.embedding_lookup(self._session, request, route)
        return lookup.complete(lambda rest: self._run(rest, route, limit, results.embeddings))

    def _chat(self, request: ChatRequest, route: str | None, limit: Deadline) -> _ChatResult:
        if request.stream:
            return self._run(request, route, limit, results.chat_stream)
        lookup = caching.chat_lookup(self._session, request, route)
        return lookup.complete(lambda rest: self._run(rest, route, limit, results.chat_completion))

    def _run(
        self,
        request: Request,
        route: str | None,
        limit: Deadline,
        finish: Callable[[Session, PlannedCall, Decision], _ResultT],
    ) -> _ResultT:
        started_at = self._session.clock()
        try:
            call = planned(self._session, request, route, limit)
            decision = drive(call.flow, call.dispatch)
        except HybridInferError as error:
            report_failure(self._session, request, error, started_at)
            raise
        return finish(self._session, call, decision)
