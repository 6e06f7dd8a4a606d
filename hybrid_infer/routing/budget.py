"""What retries and hedges cost, so that a remote in trouble is not asked ever more often."""

from __future__ import annotations

from threading import Lock

CAPACITY = 10.0
RETRY_COST = 1.0
SUCCESS_GAIN = 0.1
LEAST_TO_RETRY = CAPACITY / 2
HEDGED_SHARE = 0.05
MAX_SAVED = 3.0


class RetryBudget:
    """The tokens of one remote: a success earns a tenth of what a retry costs.

    The rule is gRPC's retry throttling (proposal A6): no retry while the bucket is at most half
    full. Safe to share between threads.
    """

    def __init__(self) -> None:
        self.tokens = CAPACITY
        self._lock = Lock()

    def take(self) -> bool:
        """Pay for a retry; False if none may be made now. Many calls may ask at the same moment."""
        with self._lock:
            if self.tokens <= LEAST_TO_RETRY:
                return False
            self.tokens -= RETRY_COST
            return True

    def give_back(self) -> None:
        """A retry that was paid for is not made."""
        with self._lock:
            self.tokens = min(CAPACITY, self.tokens + RETRY_COST)

    def succeeded(self) -> None:
        """The remote has answered well."""
        with self._lock:
            self.tokens = min(CAPACITY, self.tokens + SUCCESS_GAIN)


class HedgeBudget:
    """How many more hedges may be made: one for twenty calls. Safe to share between threads."""

    def __init__(self) -> None:
        self._saved = 0.0
        self._lock = Lock()

    def take(self) -> bool:
        """Count one call that could be hedged; whether it may be."""
        with self._lock:
            self._saved = min(MAX_SAVED, self._saved + HEDGED_SHARE)
            if self._saved < 1.0:
                return False
            self._saved -= 1.0
            return True

    def give_back(self) -> None:
        """The hedge that was taken was not needed."""
        with self._lock:
            self._saved = min(MAX_SAVED, self._saved + 1.0)
