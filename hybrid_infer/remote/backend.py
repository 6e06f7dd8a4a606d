"""The remote backend: requests of this library to one remote, and its replies checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.limits import RateLimitState
from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.datatypes.replies import ChatReply, EmbedReply, Provenance
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.errors import (
    ContextLengthError,
    HybridInferError,
    InvalidRequestError,
    ModelNotAvailableError,
)
from hybrid_infer.remote.batches import Crew, gathered, halves, in_batches
from hybrid_infer.remote.channel import Channel, OpenReply
from hybrid_infer.remote.channel_aio import AsyncChannel, AsyncOpenReply
from hybrid_infer.remote.completions import chat_reply, malformed
from hybrid_infer.remote.dialects import SPEECHES, Embedded, refusal_of_option
from hybrid_infer.remote.exchange import Exchange
from hybrid_infer.remote.keys import Secret
from hybrid_infer.remote.logs import keep_keys_out_of_logs
from hybrid_infer.remote.parts import PartReader
from hybrid_infer.remote.postings import Posting
from hybrid_infer.remote.rate_limits import rate_limit_state
from hybrid_infer.remote.responses import TOO_LARGE, Asked, parsed, refusal
from hybrid_infer.remote.streams import RemoteAsyncPartStream, RemotePartStream
from hybrid_infer.remote.vectors import Piece, checked_vectors, joined
from hybrid_infer.remote.wire import Endpoint, ReplyBody
from hybrid_infer.settings import Settings


class RemoteBackend:
    """One remote, for both tasks; see `Backend`. Safe to share between threads, tasks and loops.

    Args:
        remote: where it is and which dialect it speaks.
        key: sent as a bearer token; None sends none.
        settings: timeouts, batch sizes, limits.
        on_limits: told the remote's rate limit by each reply that tells one, on the thread or
            loop that reads the reply; it must be quick and must not raise.
    """

    def __init__(
        self,
        remote: RemoteSpec,
        *,
        key: Secret | None,
        settings: Settings,
        on_limits: Callable[[RateLimitState], None] | None = None,
    ) -> None:
        keep_keys_out_of_logs()
        self.remote = remote
        self._speech = SPEECHES[remote.dialect]
        self._key = key
        self._settings = settings
        self._on_limits = on_limits
        self._endpoint = Endpoint(remote.base_url, key, settings)
        self._channel = Channel(self._endpoint)
        self._async_channel = AsyncChannel(self._endpoint)

    def __repr__(self) -> str:
        return f"RemoteBackend({self.remote.name!r}, {self._endpoint.host})"

    def call(self, request: Request, deadline: Deadline) -> EmbedReply | ChatReply:
        """Serve a request whole.

        Raises:
            HybridInferError: as the table of statuses has it; `APITimeoutError` at the deadline.
        """
        if isinstance(request, ChatRequest):
            return self._chat_reply(self._fetched(request, deadline), request)
        if not request.texts:
            return self._embed_reply([_no_vectors(request)], request)
        batches = self._batches(request)
        if len(batches) == 1:
            return self._embed_reply([self._piece(batches[0], deadline)], request)
        crew: Crew[Piece] = Crew(
            lambda batch, exchange: self._piece(batch, deadline, exchange),
            lambda: self._endpoint.exchange(deadline),
            batches,
        )
        return self._embed_reply(crew.run(self._settings.embedding.remote_concurrency), request)

    async def acall(self, request: Request, deadline: Deadline) -> EmbedReply | ChatReply:
        """`call`, awaited. Cancelling it closes what is in flight."""
        if isinstance(request, ChatRequest):
            return self._chat_reply(await self._afetched(request, deadline), request)
        if not request.texts:
            return self._embed_reply([_no_vectors(request)], request)
        batches = self._batches(request)
        if len(batches) == 1:
            return self._embed_reply([await self._apiece(batches[0], deadline)], request)
        pieces = await gathered(
            lambda batch: self._apiece(batch, deadline),
            batches,
            self._settings.embedding.remote_concurrency,
        )
        return self._embed_reply(pieces, request)

    def stream(self, request: ChatRequest, deadline: Deadline) -> RemotePartStream:
        """Open a stream of parts; returns once the remote has accepted the request.

        Raises:
            HybridInferError: it was refused, or its head did not come.
        """
        first = deadline.at_most(self._settings.routing.attempt_timeout_seconds)
        reader = self._part_reader(request)  # first: it times the answer from here on
        reply = self._accepted(request, first)
        gap_seconds = self._settings.routing.stream_gap_seconds
        return RemotePartStream(reply, reader, deadline, gap_seconds)

    async def astream(self, request: ChatRequest, deadline: Deadline) -> RemoteAsyncPartStream:
        """`stream`, awaited."""
        first = deadline.at_most(self._settings.routing.attempt_timeout_seconds)
        reader = self._part_reader(request)  # first: it times the answer from here on
        reply = await self._aaccepted(request, first)
        gap_seconds = self._settings.routing.stream_gap_seconds
        return RemoteAsyncPartStream(reply, reader, deadline, gap_seconds)

    def close(self) -> None:
        """End calls in flight, and refuse later ones, with `EngineClosedError`."""
        self._channel.close()
        self._async_channel.close()

    async def aclose(self) -> None:
        """`close`, awaited; connections of the running loop are gone when it returns."""
        self._channel.close()
        await self._async_channel.aclose()

    def _accepted(
        self, request: Request, deadline: Deadline, exchange: Exchange | None = None
    ) -> OpenReply:
        reply = self._channel.open(self._posting(request), deadline, exchange)
        self._tell_limits(reply.body)
        if _is_success(reply.body):
            return reply
        raise self._refusal(reply.body, reply.read_notice(), request)

    async def _aaccepted(self, request: Request, deadline: Deadline) -> AsyncOpenReply:
        reply = await self._async_channel.open(self._posting(request), deadline)
        self._tell_limits(reply.body)
        if _is_success(reply.body):
            return reply
        raise self._refusal(reply.body, await reply.read_notice(), request)

    def _posting(self, request: Request) -> Posting:
        if (refusal := refusal_of_option(self.remote, request)) is not None:
            raise refusal
        return self._speech.request(request, self._model_id(request.spec))

    def _tell_limits(self, body: ReplyBody) -> None:
        if self._on_limits is not None and (state := rate_limit_state(body.headers)) is not None:
            self._on_limits(state)

    def _fetched(
        self, request: Request, deadline: Deadline, exchange: Exchange | None = None
    ) -> Any:
        return self._document(self._accepted(request, deadline, exchange).read(), request)

    async def _afetched(self, request: Request, deadline: Deadline) -> Any:
        return self._document(await (await self._aaccepted(request, deadline)).read(), request)

    def _piece(
        self, batch: EmbedRequest, deadline: Deadline, exchange: Exchange | None = None
    ) -> Piece:
        try:
            embedded = self._fetched(batch, deadline, exchange)
        except HybridInferError as error:
            if not _is_divisible(batch, error):
                raise
        else:
            return self._checked(embedded, batch)
        pieces = [self._piece(half, deadline, exchange) for half in halves(batch)]
        return joined(pieces, self._asked(batch))

    async def _apiece(self, batch: EmbedRequest, deadline: Deadline) -> Piece:
        try:
            embedded = await self._afetched(batch, deadline)
        except HybridInferError as error:
            if not _is_divisible(batch, error):
                raise
        else:
            return self._checked(embedded, batch)
        pieces = [await self._apiece(half, deadline) for half in halves(batch)]
        return joined(pieces, self._asked(batch))

    def _batches(self, request: EmbedRequest) -> list[EmbedRequest]:
        return in_batches(request, self._settings.embedding.remote_batch_size)

    def _checked(self, embedded: Embedded, batch: EmbedRequest) -> Piece:
        tolerance = self._settings.embedding.norm_tolerance
        vectors = checked_vectors(embedded.rows, batch, tolerance, self._asked(batch))
        return Piece(vectors, embedded.prompt_tokens)

    def _embed_reply(self, pieces: list[Piece], request: EmbedRequest) -> EmbedReply:
        piece = joined(pieces, self._asked(request))
        return EmbedReply(
            vectors=piece.vectors,
            prompt_tokens=piece.prompt_tokens,
            truncations=None,
            provenance=Provenance(request.spec.repo, None, verified=False),
        )

    def _chat_reply(self, document: Any, request: ChatRequest) -> ChatReply:
        model_id = self._model_id(request.spec)
        return chat_reply(document, request.spec, model_id, self._asked(request))

    def _part_reader(self, request: ChatRequest) -> PartReader:
        return PartReader(request, self._model_id(request.spec), self._asked(request))

    def _document(self, body: bytes, request: Request) -> Any:
        is_json, document = parsed(body)
        if not is_json:
            raise malformed(self._asked(request), "the answer is not JSON")
        problem = ""
        try:
            return self._speech.response(request, document)
        except ValueError as error:
            problem = str(error)
        raise malformed(self._asked(request), problem)

    def _refusal(self, body: ReplyBody, notice: bytes, request: Request) -> HybridInferError:
        error = refusal(body.status, body.headers, notice, self._asked(request))
        if isinstance(error, ContextLengthError) and self._could_not_ask_to_cut(request):
            error.status = TOO_LARGE  # the remote's limit, not the caller's mistake: others cut
        return error

    def _could_not_ask_to_cut(self, request: Request) -> bool:
        is_wanted = isinstance(request, EmbedRequest) and request.truncate
        return is_wanted and "truncate" in self._speech.embeds_only_by_default

    def _asked(self, request: Request) -> Asked:
        return Asked(self._endpoint.host, request.spec.repo, self._key, _texts(request))

    def _model_id(self, spec: ModelSpec) -> str:
        model_id = self.remote.model_id(spec)
        if model_id is None:
            raise ModelNotAvailableError(f"remote {self.remote.name!r} does not serve {spec.name}")
        return model_id


def _no_vectors(request: EmbedRequest) -> Piece:
    return Piece(np.zeros((0, request.spec.dim or 0), dtype=np.float32))


def _is_success(body: ReplyBody) -> bool:
    return 200 <= body.status < 300  # noqa: PLR2004 - HTTP


def _is_divisible(batch: EmbedRequest, error: HybridInferError) -> bool:
    is_about_size = error.status == TOO_LARGE and not isinstance(error, InvalidRequestError)
    return is_about_size and len(batch.texts) > 1


def _texts(request: Request) -> tuple[str, ...]:
    """The caller's own words, which no message may repeat."""
    if isinstance(request, EmbedRequest):
        return request.texts
    contents = [message.get("content") for message in request.messages]
    nested = [part for parts in contents if isinstance(parts, list) for part in parts]
    inner = [part.get("text") for part in nested if isinstance(part, Mapping)]
    return tuple(text for text in (*contents, *inner) if isinstance(text, str))
