"""The remote backend: requests of this library to one remote, and its replies checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.datatypes.replies import ChatReply, EmbedReply, Provenance
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.errors import HybridInferError, ModelNotAvailableError
from hybrid_infer.remote.batches import Crew, gathered, halves, in_batches
from hybrid_infer.remote.channel import Channel, OpenReply
from hybrid_infer.remote.channel_aio import AsyncChannel, AsyncOpenReply
from hybrid_infer.remote.completions import chat_reply, malformed
from hybrid_infer.remote.dialects import speech_of
from hybrid_infer.remote.exchange import Exchange
from hybrid_infer.remote.keys import Secret
from hybrid_infer.remote.parts import PartReader
from hybrid_infer.remote.responses import TOO_LARGE, Asked, parsed, refusal
from hybrid_infer.remote.streams import RemoteAsyncPartStream, RemotePartStream
from hybrid_infer.remote.vectors import checked_vectors
from hybrid_infer.remote.wire import Endpoint, ReplyBody
from hybrid_infer.settings import Settings

Vectors = NDArray[np.float32]


class RemoteBackend:
    """One remote, for both tasks; see `Backend`. Safe to share between threads, tasks and loops.

    Args:
        remote: where it is and which dialect it speaks.
        key: sent as a bearer token; None sends none.
        settings: timeouts, batch sizes, limits.

    Raises:
        ConfigError: this version does not support the remote's dialect.
    """

    def __init__(self, remote: RemoteSpec, *, key: Secret | None, settings: Settings) -> None:
        self.remote = remote
        self._speech = speech_of(remote)
        self._key = key
        self._settings = settings
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
            return self._embed_reply([self._vectors(batches[0], deadline)], request)
        crew: Crew[Vectors] = Crew(
            lambda batch, exchange: self._vectors(batch, deadline, exchange),
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
            return self._embed_reply([await self._avectors(batches[0], deadline)], request)
        pieces = await gathered(
            lambda batch: self._avectors(batch, deadline),
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
        reply = self._accepted(request, first)
        return RemotePartStream(
            reply, self._part_reader(request), deadline, self._settings.routing.stream_gap_seconds
        )

    async def astream(self, request: ChatRequest, deadline: Deadline) -> RemoteAsyncPartStream:
        """`stream`, awaited."""
        first = deadline.at_most(self._settings.routing.attempt_timeout_seconds)
        reply = await self._aaccepted(request, first)
        return RemoteAsyncPartStream(
            reply, self._part_reader(request), deadline, self._settings.routing.stream_gap_seconds
        )

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
        posting = self._speech.request(request, self._model_id(request.spec))
        reply = self._channel.open(posting, deadline, exchange)
        if _is_success(reply.body):
            return reply
        raise self._refusal(reply.body, reply.read_notice(), request)

    async def _aaccepted(self, request: Request, deadline: Deadline) -> AsyncOpenReply:
        posting = self._speech.request(request, self._model_id(request.spec))
        reply = await self._async_channel.open(posting, deadline)
        if _is_success(reply.body):
            return reply
        raise self._refusal(reply.body, await reply.read_notice(), request)

    def _fetched(
        self, request: Request, deadline: Deadline, exchange: Exchange | None = None
    ) -> Any:
        return self._document(self._accepted(request, deadline, exchange).read(), request)

    async def _afetched(self, request: Request, deadline: Deadline) -> Any:
        return self._document(await (await self._aaccepted(request, deadline)).read(), request)

    def _vectors(
        self, batch: EmbedRequest, deadline: Deadline, exchange: Exchange | None = None
    ) -> Vectors:
        try:
            rows = self._fetched(batch, deadline, exchange)
        except HybridInferError as error:
            if not _is_divisible(batch, error):
                raise
        else:
            return self._checked(rows, batch)
        return np.concatenate([self._vectors(half, deadline, exchange) for half in halves(batch)])

    async def _avectors(self, batch: EmbedRequest, deadline: Deadline) -> Vectors:
        try:
            rows = await self._afetched(batch, deadline)
        except HybridInferError as error:
            if not _is_divisible(batch, error):
                raise
        else:
            return self._checked(rows, batch)
        return np.concatenate([await self._avectors(half, deadline) for half in halves(batch)])

    def _batches(self, request: EmbedRequest) -> list[EmbedRequest]:
        return in_batches(request, self._settings.embedding.remote_batch_size)

    def _checked(self, rows: Any, batch: EmbedRequest) -> Vectors:
        tolerance = self._settings.embedding.norm_tolerance
        return checked_vectors(rows, batch, tolerance, self._asked(batch))

    def _embed_reply(self, pieces: list[Vectors], request: EmbedRequest) -> EmbedReply:
        if len({piece.shape[1] for piece in pieces}) > 1:
            raise malformed(self._asked(request), "its answers have vectors of several lengths")
        return EmbedReply(
            vectors=pieces[0] if len(pieces) == 1 else np.concatenate(pieces),
            prompt_tokens=None,
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
        return self._speech.response(request, document)

    def _refusal(self, body: ReplyBody, notice: bytes, request: Request) -> HybridInferError:
        return refusal(body.status, body.headers, notice, self._asked(request))

    def _asked(self, request: Request) -> Asked:
        return Asked(self._endpoint.host, request.spec.repo, self._key, _texts(request))

    def _model_id(self, spec: ModelSpec) -> str:
        model_id = self.remote.model_id(spec)
        if model_id is None:
            raise ModelNotAvailableError(f"remote {self.remote.name!r} does not serve {spec.name}")
        return model_id


def _no_vectors(request: EmbedRequest) -> Vectors:
    return np.zeros((0, request.spec.dim or 0), dtype=np.float32)


def _is_success(body: ReplyBody) -> bool:
    return 200 <= body.status < 300  # noqa: PLR2004 - HTTP


def _is_divisible(batch: EmbedRequest, error: HybridInferError) -> bool:
    return error.status == TOO_LARGE and len(batch.texts) > 1


def _texts(request: Request) -> tuple[str, ...]:
    """The caller's own words, which no message may repeat."""
    if isinstance(request, EmbedRequest):
        return request.texts
    contents = [message.get("content") for message in request.messages]
    nested = [part for parts in contents if isinstance(parts, list) for part in parts]
    inner = [part.get("text") for part in nested if isinstance(part, Mapping)]
    return tuple(text for text in (*contents, *inner) if isinstance(text, str))
