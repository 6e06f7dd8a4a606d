"""The local backend: the same models, loaded into this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import AsyncPartStream, PartStream
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.errors import HybridInferError, LocalEngineError
from hybrid_infer.events import Observer, ignore
from hybrid_infer.local.copies import CopyStatus
from hybrid_infer.local.engines import Engines
from hybrid_infer.local.generation.options import honoured_options, unsupported_option
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.waiting import wait_async
from hybrid_infer.routing.policy import unsupported_locally
from hybrid_infer.routing.targets import Exclusion, Readiness, Reply
from hybrid_infer.settings import Settings
from hybrid_infer.snapshots.facts import complete_spec

if TYPE_CHECKING:
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.generation.engine import ChatEngine


@dataclass(frozen=True, slots=True)
class LocalCapabilities:
    """What the local copy of one model can do here.

    Attributes:
        is_cached: whether its snapshot is on this machine.
        fits: whether it fits the memory; None if that is not known.
        placement: where and how it would be computed; None if it cannot be.
        options: the options of a call that it honours.
        detail: why it cannot serve, or empty.
    """

    is_cached: bool
    fits: bool | None
    placement: Placement | None
    options: tuple[str, ...]
    detail: str


class LocalBackend:
    """Serves requests from models in this process. Making one loads nothing.

    Args:
        settings: the client's settings.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` or a dtype's name.
        allow_download: whether a missing snapshot may be fetched by a call.
        token: gives the Hub key for downloads.
        on_event: told about loads.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        device: str = "auto",
        dtype: str = "auto",
        allow_download: bool = False,
        token: Callable[[], str | None] | None = None,
        on_event: Observer = ignore,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._device, self._dtype = device, dtype
        self._token = token
        self._engines = Engines(
            settings=settings,
            device=device,
            dtype=dtype,
            download=self._download if allow_download else None,
            on_event=on_event,
            clock=clock,
        )

    # Serving ---------------------------------------------------------------------------------

    def call(self, request: Request, deadline: Deadline) -> Reply:
        """Serve a request whole; loads the model first if it is cold.

        Raises:
            HybridInferError: see `load_engine`; or the computation failed or took too long.
        """
        with self._engines.lease(request.spec, deadline) as engine:
            if isinstance(request, EmbedRequest):
                return cast("EmbeddingEngine", engine).embed(request, deadline)
            from hybrid_infer.local.generation.consuming import LocalStream, collect

            chat = cast("ChatEngine", engine)
            return collect(LocalStream(chat, request, deadline, wants_usage=True))

    async def acall(self, request: Request, deadline: Deadline) -> Reply:
        """`call`, awaited."""
        with await self._engines.lease_async(request.spec, deadline) as engine:
            if isinstance(request, EmbedRequest):
                job = cast("EmbeddingEngine", engine).submit(request, deadline)
                return await wait_async(job, deadline)
            from hybrid_infer.local.generation.consuming import AsyncLocalStream, collect_async

            chat = cast("ChatEngine", engine)
            return await collect_async(AsyncLocalStream(chat, request, deadline, wants_usage=True))

    def stream(self, request: ChatRequest, deadline: Deadline) -> PartStream:
        """Open a stream of parts; loads the model first if it is cold."""
        from hybrid_infer.local.generation.consuming import LocalStream

        # The lease ends with the block; from then on the engine is busy until the stream ends.
        with self._engines.lease(request.spec, deadline) as engine:
            chat = _continuable(cast("ChatEngine", engine), request)
            return LocalStream(chat, request, deadline, wants_usage=request.include_usage)

    async def astream(self, request: ChatRequest, deadline: Deadline) -> AsyncPartStream:
        """`stream`, awaited."""
        from hybrid_infer.local.generation.consuming import AsyncLocalStream

        with await self._engines.lease_async(request.spec, deadline) as engine:
            chat = _continuable(cast("ChatEngine", engine), request)
            return AsyncLocalStream(chat, request, deadline, wants_usage=request.include_usage)

    # Loading ---------------------------------------------------------------------------------

    def _download(self, spec: ModelSpec) -> None:
        from hybrid_infer.snapshots.download import pull

        pull(
            spec,
            token=self._token() if self._token else None,
            progress=False,
            strict=self._settings.trust.strict,
        )

    def warm(self, spec: ModelSpec) -> None:
        """Load `spec` now; returns when it is loaded.

        Raises:
            HybridInferError: see `load_engine`.
        """
        self._engines.warm(spec)

    def preload(self, spec: ModelSpec) -> None:
        """Start loading `spec` in the background; its failure will show when it is asked for."""
        self._engines.preload(spec)

    def unload(self, spec: ModelSpec) -> None:
        """Drop `spec` from memory."""
        self._engines.unload(spec)

    # Looking ---------------------------------------------------------------------------------

    def readiness(self, spec: ModelSpec, *, may_download: bool = True) -> Readiness:
        """How far the local copy of `spec` is from answering; never blocks, never loads.

        Args:
            spec: the model.
            may_download: whether this call may fetch a missing snapshot, if the client may.
        """
        return self._engines.readiness(spec, may_download=may_download)

    def status(self, spec: ModelSpec) -> CopyStatus:
        """Everything that is known of the local copy of `spec`; loads nothing."""
        return self._engines.status(spec)

    def unsupported(self, request: Request) -> Exclusion | None:
        """Why the local copy must be left out of a call: it could only ignore an option of it."""
        if isinstance(request, EmbedRequest):
            return None
        refused = unsupported_option(request)
        return None if refused is None else unsupported_locally(*refused)

    def options(self, spec: ModelSpec) -> tuple[str, ...]:
        """The options of a call that the local copy of `spec` honours."""
        if spec.task == "embeddings":
            return ("normalize", "truncate")
        return (*honoured_options(), "stream")

    def completed(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with what only its snapshot knows, if there is one; of an alias that is its prompt.

        What else an alias leaves out stays unknown: its space is the same with and without files.
        """
        if spec.alias is not None and (spec.task == "chat" or spec.prompt is not None):
            return spec
        facts, _ = self._engines.shelf.look(spec)
        if facts is None:
            return spec
        return replace(spec, prompt=facts.prompt) if spec.alias else complete_spec(spec, facts)

    def capabilities(self, spec: ModelSpec) -> LocalCapabilities:
        """What the local copy of `spec` can do here. Imports torch."""
        from hybrid_infer.local.loading import situation_of
        from hybrid_infer.local.refusal import place

        facts, error = self._engines.shelf.look(spec)
        options = self.options(spec)
        if facts is None:
            return LocalCapabilities(False, None, None, options, error.message if error else "")
        try:
            placement = place(
                situation_of(
                    spec, facts, device=self._device, dtype=self._dtype, settings=self._settings
                )
            )
        except HybridInferError as refusal:
            return LocalCapabilities(True, False, None, options, refusal.message)
        return LocalCapabilities(True, True, placement, options, "")

    def close(self) -> None:
        """Close every engine; later calls raise `EngineClosedError`."""
        self._engines.close()

    async def aclose(self) -> None:
        """`close`, awaited: an engine may need a moment to end its batch."""
        await asyncio.to_thread(self._engines.close)


def _continuable(engine: ChatEngine, request: ChatRequest) -> ChatEngine:
    """An engine that may answer `request`: what other weights have begun, only the same go on with.

    Raises:
        LocalEngineError: it is quantised, and is to go on with a remote's answer.
    """
    if request.answer_so_far and engine.provenance.quantization is not None:
        raise LocalEngineError("a quantised copy does not go on with a remote's answer")
    return engine
