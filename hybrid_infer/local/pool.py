"""Loaded models: each is loaded once, however many callers ask at the same time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import EngineClosedError


class Engine(Protocol):
    """What the pool needs of an engine."""

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        ...

    def close(self) -> None:
        """Refuse what waits."""
        ...


EngineT = TypeVar("EngineT", bound=Engine)
Key = tuple[str, ...]


@dataclass(slots=True)
class _Load(Generic[EngineT]):
    future: Future[EngineT]
    started_at: float


class ModelPool(Generic[EngineT]):
    """Engines by key, loaded on daemon threads.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._loads: dict[Key, _Load[EngineT]] = {}
        self._load_seconds: dict[Key, float] = {}
        self._is_closed = False
        self._owner = os.getpid()

    def loaded(self, key: Key) -> EngineT | None:
        """The engine of `key`, if it is loaded and accepts requests."""
        load = self._loads.get(key)
        if load is None or not load.future.done() or load.future.exception() is not None:
            return None
        engine = load.future.result()
        return None if engine.is_closed else engine

    def loading_since(self, key: Key) -> float | None:
        """When the load under way began, or None if none is."""
        load = self._loads.get(key)
        return None if load is None or load.future.done() else load.started_at

    def load_seconds(self, key: Key) -> float | None:
        """How long the last load of `key` took, or None before the first."""
        return self._load_seconds.get(key)

    def request(self, key: Key, load: Callable[[], EngineT]) -> Future[EngineT]:
        """A future of the engine; starts `load` on a thread unless one is under way or done.

        A failed load is not remembered: the next request tries again.

        Raises:
            EngineClosedError: the pool is closed, or was used before a fork.
        """
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the client is closed")
            if self._loads and self._owner != os.getpid():
                # torch's thread pools do not survive a fork: its first product would never end.
                raise EngineClosedError(
                    "models were loaded before a fork; load them in the new process, or spawn it"
                )
            known = self._loads.get(key)
            if known is not None and not self._is_spent(known):
                return known.future
            entry: _Load[EngineT] = _Load(Future(), self._clock())
            self._loads[key] = entry
        thread = threading.Thread(
            target=self._load, args=(key, entry, load), name="hybrid-infer-load", daemon=True
        )
        thread.start()
        return entry.future

    @staticmethod
    def _is_spent(load: _Load[EngineT]) -> bool:
        if not load.future.done():
            return False
        return load.future.exception() is not None or load.future.result().is_closed

    def _load(self, key: Key, entry: _Load[EngineT], load: Callable[[], EngineT]) -> None:
        try:
            engine = load()
        except BaseException as error:  # noqa: BLE001 - every waiter must get it, whatever it is
            entry.future.set_exception(error)
            return
        self._load_seconds[key] = self._clock() - entry.started_at
        with self._lock:
            # Under the lock: whoever closes or unloads finds the engine, or it is not handed out.
            if not self._is_closed and self._loads.get(key) is entry:
                entry.future.set_result(engine)
                return
        engine.close()
        entry.future.set_exception(EngineClosedError("the model was unloaded while it loaded"))

    def unload(self, key: Key) -> None:
        """Close and forget an engine; a load under way ends for nothing."""
        with self._lock:
            load = self._loads.pop(key, None)
        _close(load)

    def close(self) -> None:
        """Close every engine; later requests are refused."""
        with self._lock:
            self._is_closed = True
            loads, self._loads = list(self._loads.values()), {}
        for load in loads:
            _close(load)


def _close(load: _Load[EngineT] | None) -> None:
    if load is not None and load.future.done() and load.future.exception() is None:
        load.future.result().close()
