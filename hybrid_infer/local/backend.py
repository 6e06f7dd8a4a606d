"""The local backend: the same models, loaded into this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.models import ModelSpec, Task
from hybrid_infer.datatypes.replies import AsyncPartStream, PartStream
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.errors import HybridInferError, ModelNotDownloadedError
from hybrid_infer.events import ModelLoaded, Observer, ignore
from hybrid_infer.local.pool import Key, ModelPool
from hybrid_infer.local.readiness import Shelf, unloaded_readiness
from hybrid_infer.local.waiting import wait, wait_async
from hybrid_infer.routing.targets import Readiness, ReadinessState, Reply
from hybrid_infer.settings import Settings
from hybrid_infer.snapshots.facts import complete_spec

if TYPE_CHECKING:
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.generation.engine import ChatEngine

    AnyEngine = EmbeddingEngine | ChatEngine

# What OpenAI's API is told of the caller, and what changes no answer.
ABOUT_THE_ACCOUNT = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
)
OPTIONS: dict[Task, tuple[str, ...]] = {
    "chat": ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed", "stream"),
    "embeddings": ("normalize", "truncate"),
}


@dataclass(frozen=True, slots=True)
class LocalCapabilities:
    """What the local copy of one model can do here.

    Attributes:
        is_cached: whether its snapshot is on this machine.
        fits: whether it fits the memory; None if that is not known.
        device: where it would be computed; None if it cannot be.
        dtype: in which dtype; None if it cannot be.
        options: the options of a call that it honours.
        detail: why it cannot serve, or empty.
    """

    is_cached: bool
    fits: bool | None
    device: str | None
    dtype: str | None
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
        self._allow_download = allow_download
        self._token = token
        self._on_event = on_event
        self._clock = clock
        self._pool: ModelPool[AnyEngine] = ModelPool(clock)
        self._shelf = Shelf(clock)

    # Serving ---------------------------------------------------------------------------------

    def call(self, request: Request, deadline: Deadline) -> Reply:
        """Serve a request whole; loads the model first if it is cold.

        Raises:
            HybridInferError: see `load_engine`; or the computation failed or took too long.
        """
        engine = self._engine(request.spec, deadline)
        if isinstance(request, EmbedRequest):
            job = cast("EmbeddingEngine", engine).submit(request, deadline)
            return wait(job.future, deadline, job.abandon)
        from hybrid_infer.local.generation.consuming import LocalStream, collect

        chat = cast("ChatEngine", engine)
        return collect(LocalStream(chat, request, deadline, wants_usage=True))

    async def acall(self, request: Request, deadline: Deadline) -> Reply:
        """`call`, awaited."""
        engine = await self._engine_async(request.spec, deadline)
        if isinstance(request, EmbedRequest):
            job = cast("EmbeddingEngine", engine).submit(request, deadline)
            return await wait_async(job.future, deadline, job.abandon)
        from hybrid_infer.local.generation.consuming import AsyncLocalStream, collect_async

        chat = cast("ChatEngine", engine)
        return await collect_async(AsyncLocalStream(chat, request, deadline, wants_usage=True))

    def stream(self, request: ChatRequest, deadline: Deadline) -> PartStream:
        """Open a stream of parts; loads the model first if it is cold."""
        from hybrid_infer.local.generation.consuming import LocalStream

        chat = cast("ChatEngine", self._engine(request.spec, deadline))
        return LocalStream(chat, request, deadline, wants_usage=request.include_usage)

    async def astream(self, request: ChatRequest, deadline: Deadline) -> AsyncPartStream:
        """`stream`, awaited."""
        from hybrid_infer.local.generation.consuming import AsyncLocalStream

        chat = cast("ChatEngine", await self._engine_async(request.spec, deadline))
        return AsyncLocalStream(chat, request, deadline, wants_usage=request.include_usage)

    # Loading ---------------------------------------------------------------------------------

    def _key(self, spec: ModelSpec) -> Key:
        file = "" if spec.gguf is None else f"{spec.gguf.name}@{spec.gguf.revision}"
        return (spec.task, spec.repo, spec.revision or "main", file, self._dtype, self._device)

    def _engine(self, spec: ModelSpec, deadline: Deadline) -> AnyEngine:
        engine = self._pool.loaded(self._key(spec))
        if engine is not None:
            return engine
        engine = wait(self._load(spec), deadline, _nothing)
        deadline.renew()
        return engine

    async def _engine_async(self, spec: ModelSpec, deadline: Deadline) -> AnyEngine:
        engine = self._pool.loaded(self._key(spec))
        if engine is not None:
            return engine
        # Shielded: other callers may wait for the same load when this one is cancelled.
        shared = self._load(spec)
        own: Future[AnyEngine] = Future()
        shared.add_done_callback(lambda done: _copy_outcome(done, own))
        engine = await wait_async(own, deadline, _nothing)
        deadline.renew()
        return engine

    def _load(self, spec: ModelSpec) -> Future[AnyEngine]:
        return self._pool.request(self._key(spec), lambda: self._load_now(spec))

    def _load_now(self, spec: ModelSpec) -> AnyEngine:
        from hybrid_infer.local.loading import load_engine

        started = self._clock()
        _, error = self._shelf.look(spec)
        if isinstance(error, ModelNotDownloadedError) and self._allow_download:
            self._download(spec)
        engine = load_engine(spec, device=self._device, dtype=self._dtype, settings=self._settings)
        self._on_event(
            ModelLoaded(
                spec.name,
                engine.provenance.revision,
                engine.provenance.dtype or "",
                self._clock() - started,
            )
        )
        return engine

    def _download(self, spec: ModelSpec) -> None:
        from hybrid_infer.snapshots.download import pull

        pull(spec, token=self._token() if self._token else None, progress=False)
        self._shelf.forget(spec)

    def warm(self, spec: ModelSpec) -> None:
        """Load `spec` now; returns when it is loaded.

        Raises:
            HybridInferError: see `load_engine`.
        """
        self._shelf.forget(spec)
        self._load(spec).result()

    def preload(self, spec: ModelSpec) -> None:
        """Start loading `spec` in the background; its failure will show when it is asked for."""
        with suppress(HybridInferError):  # a call that the remote may yet serve must go on
            self._load(spec)

    def unload(self, spec: ModelSpec) -> None:
        """Drop `spec` from memory."""
        self._pool.unload(self._key(spec))

    # Looking ---------------------------------------------------------------------------------

    def readiness(self, spec: ModelSpec, *, may_download: bool = True) -> Readiness:
        """How far the local copy of `spec` is from answering; never blocks, never loads.

        Args:
            spec: the model.
            may_download: whether this call may fetch a missing snapshot, if the client may.
        """
        key = self._key(spec)
        engine = self._pool.loaded(key)
        if engine is not None:
            is_quantized = engine.provenance.quantization is not None
            return Readiness(ReadinessState.WARM, may_be_quantized=is_quantized)
        facts, error = self._shelf.look(spec)
        cold = unloaded_readiness(
            facts,
            error,
            load_seconds=self._pool.load_seconds(key),
            may_download=may_download and self._allow_download,
        )
        since = self._pool.loading_since(key)
        if since is None or cold.state is ReadinessState.ABSENT:
            return cold
        left = max(0.0, cold.seconds - (self._clock() - since))
        return replace(cold, state=ReadinessState.LOADING, seconds=left)

    def unsupported(self, request: Request) -> str | None:
        """The first option of `request` that local computation cannot honour, or None."""
        if isinstance(request, EmbedRequest):
            return None
        for option in request.passthrough:
            if option not in ABOUT_THE_ACCOUNT:
                return option
        for message in request.messages:
            if message["role"] == "tool" or message.get("tool_calls"):
                return "tools"
            if not isinstance(message.get("content"), str):
                return "content"
        return None

    def options(self, spec: ModelSpec) -> tuple[str, ...]:
        """The options of a call that the local copy of `spec` honours."""
        return OPTIONS[spec.task]

    def completed(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with what only its snapshot knows, if there is one."""
        if spec.alias is not None:
            return spec
        facts, _ = self._shelf.look(spec)
        return spec if facts is None else complete_spec(spec, facts)

    def capabilities(self, spec: ModelSpec) -> LocalCapabilities:
        """What the local copy of `spec` can do here. Imports torch."""
        from hybrid_infer.local.loading import placed

        facts, error = self._shelf.look(spec)
        options = self.options(spec)
        if facts is None:
            return LocalCapabilities(
                False, None, None, None, options, error.message if error else ""
            )
        try:
            placement = placed(
                spec, facts, device=self._device, dtype=self._dtype, settings=self._settings
            )
        except HybridInferError as refusal:
            return LocalCapabilities(True, False, None, None, options, refusal.message)
        return LocalCapabilities(True, True, placement.device, placement.dtype, options, "")

    def close(self) -> None:
        """Close every engine; later calls raise `EngineClosedError`."""
        self._pool.close()

    async def aclose(self) -> None:
        """`close`, awaited: an engine may need a moment to end its batch."""
        await asyncio.to_thread(self._pool.close)


def _nothing() -> None:
    """A load goes on when one of its waiters leaves."""


def _copy_outcome(source: Future[AnyEngine], target: Future[AnyEngine]) -> None:
    if not target.set_running_or_notify_cancel():
        return
    error = source.exception()
    if error is not None:
        target.set_exception(error)
    else:
        target.set_result(source.result())
