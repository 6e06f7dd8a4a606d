"""A few daemon threads for work that would block an event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

_ResultT = TypeVar("_ResultT")
_Job: TypeAlias = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Workers:
    """Runs jobs on at most `count` threads, started as they are needed.

    A ThreadPoolExecutor would keep the interpreter from exiting while a job is stuck; these
    threads are daemons, and closing waits for them only so long.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., _ResultT], *args: Any) -> Future[_ResultT]:
        """Run ``function(*args)`` on a thread; cancelled at once if the pool is closed."""
        future: Future[_ResultT] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            if self._idle > 0:
                self._idle -= 1
            elif len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._jobs.put((future, function, args))
        return future

    async def run(self, function: Callable[..., _ResultT], *args: Any) -> _ResultT:
        """`submit`, awaited."""
        return await asyncio.wrap_future(self.submit(function, *args))

    def close(self, timeout_seconds: float) -> bool:
        """Drop what has not begun and wait for the rest; returns whether every thread ended."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for future in self._drained():
            future.cancel()
        for _ in threads:
            self._jobs.put(None)
        end = time.monotonic() + timeout_seconds
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _drained(self) -> list[Future[Any]]:
        futures: list[Future[Any]] = []
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return futures
            if job is not None:
                futures.append(job[0])

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _perform(*job)
            del job  # else an idle thread would keep its last arguments alive
            with self._lock:
                self._idle += 1


def _perform(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args)
    except BaseException as error:  # noqa: BLE001 - the thread must survive any job; its waiter gets the error
        # An event loop cannot carry StopIteration, and would itself end with SystemExit.
        carried = isinstance(error, Exception) and not isinstance(error, StopIteration)
        future.set_exception(error if carried else RuntimeError(f"the job raised {error!r}"))
    else:
        future.set_result(result)
