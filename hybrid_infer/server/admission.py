"""How much the server works on at once, and when a refused client may come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.server.errors import RefusedError
from hybrid_infer.settings import ServerSettings

SMOOTHING = 0.1


class Admission:
    """Strict bounds of what is in progress, in requests and in texts. For one event loop.

    Args:
        limits: the bounds.
        clock: monotonic seconds.
    """

    def __init__(self, limits: ServerSettings, clock: Clock = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self.requests = self.texts = self.most_texts = self.refused = 0
        self._usual_seconds: float | None = None

    def check_requests(self) -> None:
        """Refuse one more request if as many as may be are in progress.

        Raises:
            RefusedError: 429.
        """
        if self.requests >= self._limits.max_requests:
            raise self._full(f"{self.requests} requests are in progress")

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request in until it has its answer.

        Raises:
            RefusedError: 429, too many are in progress.
        """
        self.check_requests()
        started = self._clock()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self._measured(self._clock() - started)

    @contextmanager
    def waiting(self, num_texts: int) -> Iterator[None]:
        """Count a request's texts in until they have their vectors.

        Raises:
            RefusedError: 429, too many are waiting.
        """
        if self.texts and self.texts + num_texts > self._limits.max_waiting_texts:
            raise self._full(f"{self.texts} texts are waiting")
        self.texts += num_texts
        self.most_texts = max(self.most_texts, self.texts)
        try:
            yield
        finally:
            self.texts -= num_texts

    def _full(self, why: str) -> RefusedError:
        self.refused += 1
        return RefusedError(
            429, f"the server is full: {why}", "overloaded", retry_after=self._usual_seconds
        )

    def _measured(self, seconds: float) -> None:
        if self._usual_seconds is None:
            self._usual_seconds = seconds
        self._usual_seconds += SMOOTHING * (seconds - self._usual_seconds)
