"""The waits of a client's calls, which end early when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
from threading import Event, Lock


class Pauses:
    """Sleeps, for threads and for tasks of any event loop; none is left once it is ended."""

    def __init__(self) -> None:
        self._ended = Event()
        self._lock = Lock()
        self._tasks: set[asyncio.Future[None]] = set()

    def sleep(self, seconds: float) -> None:
        """Wait for so long, or until the client is closed."""
        self._ended.wait(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """`sleep`, awaited."""
        woken = asyncio.get_running_loop().create_future()
        with self._lock:
            self._tasks.add(woken)
        try:
            if not self._ended.is_set():
                await asyncio.wait([woken], timeout=seconds)
        finally:
            with self._lock:
                self._tasks.discard(woken)

    def end(self) -> None:
        """End all of them, and every later one; from any thread."""
        self._ended.set()
        with self._lock:
            tasks = list(self._tasks)
        for woken in tasks:
            with contextlib.suppress(RuntimeError):  # its loop has been closed: nobody waits
                woken.get_loop().call_soon_threadsafe(_wake, woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
