"""Loaded models: each is loaded once, however many callers ask, and leaves when memory is needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import (
    EngineClosedError,
    HybridInferError,
    InsufficientMemoryError,
    OverloadedError,
)
from hybrid_infer.local.answer import Answer
from hybrid_infer.local.entries import Decide, EngineT, Entry, Key, Lease, Load, Loading, Occupancy
from hybrid_infer.local.eviction import Resident, expired, next_victim
from hybrid_infer.local.freeing import forget_frames, free_memory
from hybrid_infer.local.making_room import OtherClaims, find_room
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.timers import StartTimer, Timer, start_daemon_timer

OnUnload = Callable[[Key, str], None]
Unless = Callable[[], bool]  # bool itself never says so


class ModelPool(Generic[EngineT]):
    """Engines by key, loaded on daemon threads.

    An engine with a lease, or that is busy, is never evicted. With `idle_seconds` there is one
    timer while something is loaded, and none otherwise: memory that nobody asks for can only be
    given back by somebody who comes unasked.

    Args:
        clock: a monotonic clock in seconds.
        idle_seconds: after how long without a call an engine leaves; None: never.
        on_unload: told a key and why its engine, loaded to the end, has left: ``asked``, ``memory``,
            ``idle`` or ``closed``.
        start_timer: calls a function after some seconds.
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        idle_seconds: float | None = None,
        on_unload: OnUnload = lambda key, reason: None,  # noqa: ARG005 - nobody wants to know
        start_timer: StartTimer = start_daemon_timer,
    ) -> None:
        self._clock, self._idle_seconds = clock, idle_seconds
        self._on_unload, self._start_timer = on_unload, start_timer
        self._lock = threading.Lock()
        self._placing = threading.Lock()  # held while a load finds its place, and makes room
        self._entries: dict[Key, Entry[EngineT]] = {}
        self._load_seconds: dict[Key, float] = {}
        self._failures: dict[Key, Occupancy] = {}
        self._timer: Timer | None = None
        self._is_closed = False
        self._owner = os.getpid()

    # Looking ---------------------------------------------------------------------------------

    def loaded(self, key: Key) -> EngineT | None:
        """The engine of `key`, if it is loaded and accepts requests. It may leave at any time."""
        entry = self._entries.get(key)
        return None if entry is None else entry.engine

    def underway(self, key: Key) -> Answer[EngineT] | None:
        """The load of `key` that has not ended, or None."""
        entry = self._entries.get(key)
        return None if entry is None or entry.future.done() else entry.future

    def load_seconds(self, key: Key) -> float | None:
        """How long the last stage of the last load of `key` took, or None before the first."""
        return self._load_seconds.get(key)

    def occupancy(self, key: Key) -> Occupancy:
        """What is known of `key`."""
        entry = self._entries.get(key)
        if entry is None:
            return self._failures.get(key, Occupancy())
        if not entry.future.done():
            return Occupancy(entry.stage, entry.started_at, entry.claim)
        return Occupancy(claim=entry.claim, last_used=entry.last_used)

    # Lending ---------------------------------------------------------------------------------

    def lease(self, key: Key, load: Load[EngineT], unless: Unless = bool) -> Lease[EngineT] | None:
        """A lease of the engine; starts `load` on a thread unless one is under way or done.

        `unless` is asked under the lock before that: if it says so, nothing is started, and it is None.

        Raises:
            EngineClosedError: the pool is closed, or was used before a fork.
            OverloadedError: the system has no thread left.
        """
        with self._lock_unless_inherited():
            entry = self._found(key, load, unless)
            return None if entry is None else self._lend(entry)

    def lease_loaded(self, key: Key) -> Lease[EngineT] | None:
        """A lease of the engine if it is loaded, else None; raises as `lease` does."""
        with self._lock_unless_inherited():
            entry = self._entries.get(key)
            return None if entry is None or entry.engine is None else self._lend(entry)

    def request(
        self, key: Key, load: Load[EngineT], unless: Unless = bool
    ) -> Answer[EngineT] | None:
        """A future of the engine, which may leave at any time; loads and raises as `lease` does.

        A failed load is not repeated for those who waited: the next request tries again.
        """
        with self._lock_unless_inherited():
            entry = self._found(key, load, unless)
            return None if entry is None else entry.future

    def _lend(self, entry: Entry[EngineT]) -> Lease[EngineT]:
        def release() -> None:
            with self._lock:
                entry.num_leases -= 1
                entry.last_used = self._clock()

        entry.num_leases += 1
        entry.last_used = self._clock()
        return Lease(entry.future, release)

    def _lock_unless_inherited(self) -> threading.Lock:
        """The lock, for a ``with`` block; a child process may find it held for ever."""
        if self._is_inherited:
            # torch's thread pools do not survive a fork: its first product would never end.
            raise EngineClosedError(
                "models were loaded before a fork; load them in the new process, or spawn it"
            )
        if not self._entries:
            self._owner = os.getpid()
        return self._lock

    def _found(self, key: Key, load: Load[EngineT], unless: Unless) -> Entry[EngineT] | None:
        """What is loaded or on its way under a key, after `load` has been started if need be."""
        if self._is_closed:
            raise EngineClosedError("the client is closed")
        now, entry = self._clock(), self._entries.get(key)
        if entry is None or (entry.future.done() and entry.engine is None):
            if unless():
                return None
            entry = self._entries[key] = Entry(Answer(), now, now)
            self._start(key, entry, load)
        entry.last_used = now
        return entry

    # Loading ---------------------------------------------------------------------------------

    def _start(self, key: Key, entry: Entry[EngineT], load: Load[EngineT]) -> None:
        thread = threading.Thread(
            target=self._load, args=(key, entry, load), name="hybrid-infer-load", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            del self._entries[key]
            raise OverloadedError(f"no thread to load a model: {error}") from error

    @property
    def _is_inherited(self) -> bool:
        return bool(self._entries) and self._owner != os.getpid()

    def _load(self, key: Key, entry: Entry[EngineT], load: Load[EngineT]) -> None:
        try:
            engine = self._loaded(entry, load)
        except BaseException as error:  # noqa: BLE001 - every waiter must get it, whatever it is
            forget_frames(error)
            with self._lock:
                if self._entries.get(key) is entry:
                    del self._entries[key]
            if isinstance(error, HybridInferError):
                self._failures[key] = Occupancy(failure=error.message, failed_at=self._clock())
            entry.future.fail(error)
            return
        self._load_seconds[key] = self._clock() - entry.started_at
        self._failures.pop(key, None)
        with self._lock:
            # Under the lock: whoever closes or unloads finds the engine, or it is not handed out.
            if not self._is_closed and self._entries.get(key) is entry:
                entry.last_used = self._clock()
                entry.future.give(engine)
                self._set_timer()
                return
        engine.close()
        self._on_unload(key, "closed" if self._is_closed else "asked")
        entry.future.fail(EngineClosedError("the model was unloaded while it loaded"))

    def _loaded(self, entry: Entry[EngineT], load: Load[EngineT]) -> EngineT:
        loading = Loading(
            lambda decide: self._place(entry, decide), lambda stage: self._enter(entry, stage)
        )
        try:
            return load(loading)
        except InsufficientMemoryError as error:
            if entry.claim is None:  # refused before anything was loaded: nothing would help
                raise
            forget_frames(error)
            entry.claim = None
            if not self._evict_one():
                raise
        return load(loading)  # outside of the handler, which keeps the error and what it holds

    def _enter(self, entry: Entry[EngineT], stage: str) -> None:
        # A download, say, is no part of what the next load will take.
        entry.stage, entry.started_at = stage, self._clock()

    def _place(self, entry: Entry[EngineT], decide: Decide) -> Placement:
        with self._placing:
            placement = find_room(decide, lambda: self._claims(entry), self._evict_one)
            entry.claim = placement.claim
            return placement

    def _claims(self, but: Entry[EngineT]) -> OtherClaims:
        """What all but one claim."""
        idle, staying = [], []
        with self._lock:
            for entry in self._entries.values():
                if entry is but or entry.claim is None:
                    continue
                if entry.engine is None:
                    staying.append(replace(entry.claim, allocated_bytes=0))
                elif entry.is_in_use:
                    staying.append(entry.claim)
                else:
                    idle.append(entry.claim)
        return OtherClaims(tuple(idle), tuple(staying))

    # Leaving ---------------------------------------------------------------------------------

    def _residents(self) -> list[Resident[Key]]:
        """The loaded engines; under the lock."""
        return [
            Resident(key, entry.last_used, entry.is_in_use)
            for key, entry in self._entries.items()
            if entry.engine is not None
        ]

    def _evict_one(self) -> bool:
        """Drop the engine that was used longest ago and serves no call; False if there is none."""
        with self._lock:
            key = next_victim(self._residents())
            if key is None:
                return False
            entry = self._entries.pop(key)
        self._drop(key, entry, "memory")
        return True

    def _set_timer(self) -> None:
        """See to it that idle engines leave in time; under the lock."""
        if self._idle_seconds is None or self._timer is not None or self._is_closed:
            return
        used = [resident.last_used for resident in self._residents()]
        if used:
            left = min(used) + self._idle_seconds - self._clock()
            self._timer = self._start_timer(max(0.0, left), self._drop_expired)

    def _drop_expired(self) -> None:
        with self._lock:
            self._timer = None
            now, residents = self._clock(), self._residents()
            for resident in residents:
                if resident.is_in_use:
                    self._entries[resident.key].last_used = now
            leaving = [
                (key, self._entries.pop(key))
                for key in expired(residents, now, self._idle_seconds or 0.0)
            ]
            self._set_timer()
        for key, entry in leaving:
            self._drop(key, entry, "idle")

    def unload(self, key: Key) -> None:
        """Close and forget an engine, whoever uses it; a load under way ends for nothing."""
        if self._is_inherited:
            return
        with self._lock:
            entry = self._entries.pop(key, None)
        if entry is not None:
            self._drop(key, entry, "asked")

    def _drop(self, key: Key, entry: Entry[EngineT], reason: str) -> None:
        """Close what is in no list any more, and give its memory back."""
        if not entry.future.done():
            return
        engine, entry.future = entry.engine, Answer()  # so that nothing here keeps it alive
        if engine is None:
            return
        engine.close()
        del engine
        free_memory()
        self._on_unload(key, reason)

    def close(self) -> None:
        """Close every engine; later requests are refused."""
        if self._is_inherited:
            self._is_closed = True
            return
        with self._lock:
            self._is_closed = True
            entries, self._entries = self._entries, {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for key, entry in entries.items():
            if (engine := entry.engine) is not None:
                engine.close()
                self._on_unload(key, "closed")
