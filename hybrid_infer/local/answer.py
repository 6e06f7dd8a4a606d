"""What a compute thread owes a caller: one result or one error, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Generic, TypeVar

ResultT = TypeVar("ResultT")


class Answer(Generic[ResultT]):
    """A `concurrent.futures.Future` that is light enough for a thousand callers.

    That one has a condition, which has a lock, a queue and five bound methods: a third of what a call
    costs, and all of it work for the garbage collector. This one has a lock; who blocks makes another.
    """

    __slots__ = ("_callbacks", "_error", "_is_done", "_lock", "_result")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_done = False
        self._result: ResultT | None = None
        self._error: BaseException | None = None
        self._callbacks: tuple[Callable[[Any], object], ...] = ()

    def done(self) -> bool:
        """Whether there is a result or an error, or it was cancelled."""
        return self._is_done

    def give(self, result: ResultT) -> bool:
        """End with a result; False if it has ended."""
        return self._end(result, None)

    def fail(self, error: BaseException) -> bool:
        """End with an error; False if it has ended."""
        return self._end(None, error)

    def cancel(self) -> bool:
        """Nobody waits for it any more; False if it has ended."""
        return self._end(None, CancelledError())

    def _end(self, result: ResultT | None, error: BaseException | None) -> bool:
        callbacks = self.settle(result, error)
        if callbacks is None:
            return False
        self._leave()
        for callback in callbacks:
            callback(self)
        return True

    def settle(
        self, result: ResultT | None, error: BaseException | None = None
    ) -> tuple[Callable[[Any], object], ...] | None:
        """End, but tell nobody; who is to be told, or None if it has ended."""
        with self._lock:
            if self._is_done:
                return None
            self._result, self._error, self._is_done = result, error, True
            callbacks, self._callbacks = self._callbacks, ()
        return callbacks

    def _leave(self) -> None:
        """Leave whatever it waits in, before anybody is told that it has ended."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` with this once it is done, on the thread that ends it; or now.

        It must not raise: the thread that computes would die of it, and the next callback would not be
        called.
        """
        with self._lock:
            if not self._is_done:
                self._callbacks += (callback,)
                return
        callback(self)

    def error(self) -> BaseException | None:
        """What it has failed with, once it is done; unlike `result`, this adds nothing to its traceback."""
        return self._error

    def result(self, timeout: float | None = None) -> ResultT:
        """The result.

        Args:
            timeout: seconds to wait for it, none if negative; None: for ever.

        Raises:
            concurrent.futures.CancelledError: it was cancelled.
            concurrent.futures.TimeoutError: it is not done by then.
        """
        if not self._is_done:
            gate = threading.Lock()
            gate.acquire()
            self.add_done_callback(lambda _: gate.release())
            seconds = -1 if timeout is None else max(0.0, timeout)  # to a lock, -1 is for ever
            if not gate.acquire(timeout=seconds) and not self._is_done:
                raise FutureTimeoutError
        if self._error is None:
            return self._result  # type: ignore[return-value]  # None only if that is the result
        try:
            raise self._error
        finally:
            del self  # the error knows this frame
