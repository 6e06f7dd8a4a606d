"""The record of what a fake remote received, readable and awaitable from any thread."""

from __future__ import annotations

import threading
from dataclasses import replace

from hybrid_infer.testing.messages import ReceivedRequest


class Ledger:
    """Requests in the order in which they arrived."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: dict[int, ReceivedRequest] = {}
        self._next_number = 0

    def add(self, request: ReceivedRequest) -> int:
        """Record an arrival; returns the number by which it is updated."""
        with self._changed:
            number = self._next_number
            self._next_number += 1
            self._requests[number] = request
            self._changed.notify_all()
            return number

    def answer(self, number: int, status: int) -> None:
        """Note the status that is being sent."""
        with self._changed:
            if number in self._requests:
                self._requests[number] = replace(self._requests[number], answered=status)

    def finish(self, number: int, bytes_sent: int) -> None:
        """Note that the answer has ended; nothing happens if the ledger was cleared since."""
        with self._changed:
            if number in self._requests:
                self._requests[number] = replace(
                    self._requests[number], bytes_sent=bytes_sent, finished=True
                )
                self._changed.notify_all()

    def all(self) -> list[ReceivedRequest]:
        """A copy, oldest first."""
        with self._changed:
            return list(self._requests.values())

    @property
    def last_number(self) -> int:
        """The number of the newest request, -1 before the first; clearing does not reset it."""
        with self._changed:
            return self._next_number - 1

    def take_finished(self, timeout: float) -> list[ReceivedRequest]:
        """Remove and return what has been answered to its end, waiting for the first of them."""
        with self._changed:
            self._changed.wait_for(
                lambda: any(r.finished for r in self._requests.values()), timeout
            )
            numbers = [number for number, one in self._requests.items() if one.finished]
            return [self._requests.pop(number) for number in numbers]

    def clear(self) -> None:
        """Forget every request."""
        with self._changed:
            self._requests.clear()

    def wait_for(self, count: int, timeout: float, *, finished: bool) -> list[ReceivedRequest]:
        """Block until `count` requests are recorded, or have been answered to their end.

        Raises:
            TimeoutError: fewer were within `timeout` seconds.
        """

        def matching() -> list[ReceivedRequest]:
            return [one for one in self._requests.values() if one.finished or not finished]

        with self._changed:
            if not self._changed.wait_for(lambda: len(matching()) >= count, timeout):
                what = "finished" if finished else "arrived"
                raise TimeoutError(
                    f"{len(matching())} of {count} requests {what} within {timeout:g} s"
                )
            return matching()
