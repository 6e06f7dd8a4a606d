"""From a spec to a loaded engine that stays while it is needed, and what is known of one meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from copy import copy
from typing import TYPE_CHECKING, TypeAlias, cast

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import HybridInferError, ModelNotDownloadedError
from hybrid_infer.events import ModelLoaded, ModelLoading, ModelUnloaded, Observer, ignore
from hybrid_infer.local.answer import Answer
from hybrid_infer.local.copies import CopyStatus
from hybrid_infer.local.entries import Key, Lease, Load, Loading
from hybrid_infer.local.pool import ModelPool
from hybrid_infer.local.readiness import Shelf, may_be_quantized, unloaded_readiness
from hybrid_infer.local.waiting import wait, wait_async
from hybrid_infer.routing.targets import Readiness, ReadinessState
from hybrid_infer.settings import Settings

if TYPE_CHECKING:
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.generation.engine import ChatEngine

RETRY_PRELOAD_SECONDS = 60.0
AnyEngine: TypeAlias = "EmbeddingEngine | ChatEngine"


class Engines:
    """The models of one client, loaded when they are asked for.

    Args:
        settings: the client's settings.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` or a dtype's name.
        download: fetches a missing snapshot; None where that is not allowed.
        on_event: told about loads.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        device: str,
        dtype: str,
        download: Callable[[ModelSpec], None] | None,
        on_event: Observer = ignore,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._device, self._dtype = device, dtype
        self._download = download
        self._on_event = on_event
        self._clock = clock
        self._names: dict[Key, str] = {}
        self._pool: ModelPool[AnyEngine] = ModelPool(
            clock, idle_seconds=settings.memory.idle_seconds, on_unload=self._tell_unloaded
        )
        self.shelf = Shelf(clock)

    def _keys(self, spec: ModelSpec) -> tuple[Key, Key]:
        """Where the engine of `spec` is, and where one may be that serves it as well.

        An alias that allows a quantised copy has one place and an alias that does not has another;
        but the original weights serve both, whichever of them asked first. What is put before
        texts is the engine's own, so each prompt has an engine.
        """
        file = "" if spec.gguf is None else f"{spec.gguf.name}@{spec.gguf.revision}"
        weights = (spec.task, spec.repo, spec.revision or "main", file, repr(spec.prompt))
        names = (*weights, self._dtype, self._device)
        plain, quantized = (*names, "original"), (*names, "any")
        return (quantized, plain) if spec.allow_quantized else (plain, quantized)

    def _loaded(self, spec: ModelSpec) -> tuple[Key | None, AnyEngine | None]:
        """A loaded engine that may serve `spec`, and its place."""
        for key in self._keys(spec):
            engine = self._pool.loaded(key)
            if engine is not None and _may_serve(spec, engine):
                return key, engine
        return None, None

    # Lending ---------------------------------------------------------------------------------

    def lease(self, spec: ModelSpec, deadline: Deadline) -> Lease[AnyEngine]:
        """The engine of `spec`, loaded if need be; it stays until the lease ends.

        Raises:
            HybridInferError: see `load_engine`; or the deadline ran out.
        """
        lease = self._lease_of_loaded(spec)  # as a rule
        if lease is not None:
            return lease
        with closing(self._leasing(spec, deadline)) as steps:
            while True:
                try:
                    load = next(steps)
                except StopIteration as end:
                    return cast("Lease[AnyEngine]", end.value)
                wait(load, deadline)

    async def lease_async(self, spec: ModelSpec, deadline: Deadline) -> Lease[AnyEngine]:
        """`lease`, awaited."""
        lease = self._lease_of_loaded(spec)
        if lease is not None:
            return lease
        with closing(self._leasing(spec, deadline)) as steps:
            while True:
                try:
                    load = next(steps)
                except StopIteration as end:
                    return cast("Lease[AnyEngine]", end.value)
                await wait_async(load, deadline)

    def _leasing(
        self, spec: ModelSpec, deadline: Deadline
    ) -> Generator[Answer[None], None, Lease[AnyEngine]]:
        """The steps of `lease`: whoever drives it waits for each load; whoever gives up closes it."""
        while (lease := self._leased(spec)) is None:
            if (other := self._other_load(spec)) is not None:
                yield _ended(other)
        if not lease.future.done():
            try:
                yield _ended(lease.future)
                _check(lease.future)
            except BaseException:  # whoever gives up gives the lease back
                lease.release()
                raise
            deadline.renew()
        return lease

    def _lease_of_loaded(self, spec: ModelSpec) -> Lease[AnyEngine] | None:
        for key in self._keys(spec):
            lease = self._pool.lease_loaded(key)
            if lease is not None:
                if _may_serve(spec, lease.future.result()):
                    return lease
                lease.release()
        return None

    def _leased(self, spec: ModelSpec) -> Lease[AnyEngine] | None:
        """A lease of what is loaded or on its way, or of a new load; None if the other place is due."""
        lease, own = self._lease_of_loaded(spec), self._keys(spec)[0]
        if lease is None:
            lease = self._pool.lease(own, self._loader(spec, own), lambda: self._is_other_due(spec))
        return lease

    def _other_load(self, spec: ModelSpec) -> Answer[AnyEngine] | None:
        """The load of another alias that may turn out to serve this one too."""
        return self._pool.underway(self._keys(spec)[1])

    def _is_other_due(self, spec: ModelSpec) -> bool:
        """Whether another alias's engine serves this one, or may once it is loaded."""
        engine = self._pool.loaded(self._keys(spec)[1])
        is_loaded = engine is not None and _may_serve(spec, engine)
        return is_loaded or self._other_load(spec) is not None

    # Loading ---------------------------------------------------------------------------------

    def _loader(self, spec: ModelSpec, key: Key) -> Load[AnyEngine]:
        return lambda loading: self._load_now(spec, key, loading)

    def _load(self, spec: ModelSpec) -> Answer[AnyEngine] | None:
        """The load of `spec`, or None if another alias's engine is due."""
        own = self._keys(spec)[0]
        return self._pool.request(own, self._loader(spec, own), lambda: self._is_other_due(spec))

    def _load_now(self, spec: ModelSpec, key: Key, loading: Loading) -> AnyEngine:
        from hybrid_infer.local.loading import load_engine

        started = self._clock()
        heard = Loading(loading.place, lambda stage: self._enter(spec, loading, stage))
        _, error = self.shelf.look(spec)
        if isinstance(error, ModelNotDownloadedError) and self._download is not None:
            heard.enter("downloading")
            self._download(spec)
            self.shelf.forget(spec)
        engine = load_engine(
            spec,
            heard,
            device=self._device,
            dtype=self._dtype,
            settings=self._settings,
            on_event=self._on_event,
        )
        self._names[key] = spec.name
        self._on_event(
            ModelLoaded(
                spec.name,
                engine.provenance.revision,
                engine.provenance.dtype or "",
                self._clock() - started,
                engine.provenance.quantization,
            )
        )
        return engine

    def _enter(self, spec: ModelSpec, loading: Loading, stage: str) -> None:
        loading.enter(stage)
        readiness = self.readiness(spec, may_download=True)
        self._on_event(ModelLoading(spec.name, stage, readiness.seconds))

    def _tell_unloaded(self, key: Key, reason: str) -> None:
        self._on_event(ModelUnloaded(self._names[key], reason))

    def warm(self, spec: ModelSpec) -> None:
        """Load `spec` now; returns when it is loaded.

        Raises:
            HybridInferError: see `load_engine`.
        """
        self.shelf.forget(spec)
        while (load := self._load(spec)) is None:
            if (other := self._other_load(spec)) is None:  # it is loaded
                return
            _ended(other).result()
        load.result()

    def preload(self, spec: ModelSpec) -> None:
        """Start loading `spec` in the background, unless that has failed within the last minute.

        A failure shows when `spec` is asked for, which tries again.
        """
        if self._loaded(spec)[0] is not None:
            return
        failed_at = self._pool.occupancy(self._keys(spec)[0]).failed_at
        if failed_at is None or self._clock() - failed_at >= RETRY_PRELOAD_SECONDS:
            with suppress(HybridInferError):  # a call that the remote may yet serve must go on
                self._load(spec)

    def unload(self, spec: ModelSpec) -> None:
        """Drop `spec` from memory."""
        loaded, own = self._loaded(spec)[0], self._keys(spec)[0]
        self._pool.unload(own)
        if loaded is not None and loaded != own:
            self._pool.unload(loaded)

    def close(self) -> None:
        """Close every engine; later calls raise `EngineClosedError`."""
        self._pool.close()

    # Looking ---------------------------------------------------------------------------------

    def readiness(self, spec: ModelSpec, *, may_download: bool) -> Readiness:
        """How far the local copy of `spec` is from answering; never blocks, never loads."""
        _, engine = self._loaded(spec)
        if engine is not None:
            is_quantized = engine.provenance.quantization is not None
            return Readiness(ReadinessState.WARM, may_be_quantized=is_quantized)
        own = self._keys(spec)[0]
        facts, error = self.shelf.look(spec)
        cold = unloaded_readiness(
            facts,
            error,
            load_seconds=self._pool.load_seconds(own),
            may_download=may_download and self._download is not None,
            may_be_quantized=may_be_quantized(spec, facts),
        )
        since = self._pool.occupancy(own).started_at
        if since is None or cold.state is ReadinessState.ABSENT:
            return cold
        left = max(0.0, cold.seconds - (self._clock() - since))
        return Readiness(ReadinessState.LOADING, left, may_be_quantized=cold.may_be_quantized)

    def status(self, spec: ModelSpec) -> CopyStatus:
        """Everything that is known of the local copy of `spec`; loads nothing."""
        readiness = self.readiness(spec, may_download=False)
        key, engine = self._loaded(spec)
        known = self._pool.occupancy(key or self._keys(spec)[0])
        detail = readiness.exclusion.error.message if readiness.exclusion else known.failure
        claim = known.claim
        return CopyStatus(
            state=str(readiness.state),
            detail=detail or "",
            stage=known.stage,
            seconds_left=None if readiness.exclusion else readiness.seconds,
            bytes=None if claim is None else claim.bytes,
            device=None if claim is None else "+".join(claim.devices),
            dtype=None if engine is None else engine.provenance.dtype,
            quantization=None if engine is None else engine.provenance.quantization,
            idle_seconds=(
                None if known.last_used is None else max(0.0, self._clock() - known.last_used)
            ),
            is_busy=engine is not None and engine.is_busy,
            computed_seconds=None if engine is None else engine.computed_seconds,
        )


def _may_serve(spec: ModelSpec, engine: AnyEngine) -> bool:
    """Whether an engine's weights are the ones that `spec` stands for."""
    return spec.allow_quantized or engine.provenance.quantization is None


def _check(load: Answer[AnyEngine]) -> None:
    """Raise what a load has ended with: each caller gets a copy, for attempts and notes are its own.

    Raises:
        HybridInferError: the load has failed.
    """
    error = load.error()
    if isinstance(error, HybridInferError):
        raise copy(error) from error.__cause__
    load.result()


def _ended(load: Answer[AnyEngine]) -> Answer[None]:
    """Done when a load is, well or badly. Cancelling it ends a caller's wait, and no load."""
    ended: Answer[None] = Answer()
    load.add_done_callback(lambda _: ended.give(None))
    return ended
