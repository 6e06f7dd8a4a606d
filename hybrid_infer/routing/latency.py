"""How long answers take: a small window of measurements per key."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from threading import Lock

WINDOW = 64
MAX_KEYS = 1024


class LatencyWindow:
    """Quantiles of the last 64 measurements of each key.

    Keys are bounded: the least recently measured one is forgotten first.
    """

    def __init__(self) -> None:
        self._samples: OrderedDict[str, _Samples] = OrderedDict()
        self._lock = Lock()

    def record(self, key: str, seconds: float) -> None:
        """Add one measurement."""
        with self._lock:
            samples = self._samples.get(key)
            if samples is None:
                samples = self._samples[key] = _Samples()
            samples.add(seconds)
            self._samples.move_to_end(key)
            if len(self._samples) > MAX_KEYS:
                self._samples.popitem(last=False)

    def count(self, key: str) -> int:
        """How many measurements there are of `key`, 64 at most."""
        samples = self._samples.get(key)
        return 0 if samples is None else len(samples.ranked)

    def p95(self, key: str, *, default: float) -> float:
        """The 95th percentile in seconds, or `default` before the first measurement."""
        return self.quantile(key, 0.95, default=default)

    def quantile(self, key: str, share: float, *, default: float) -> float:
        """The measurement that `share` of them do not exceed, or `default` before the first."""
        samples = self._samples.get(key)
        if samples is None:
            return default
        with self._lock:
            ranked = samples.ranked
            return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class _Samples:
    """The last measurements of a key; every call asks for a quantile of them, so they stay ranked.

    Attributes:
        ranked: by size; empty only before the first.
    """

    __slots__ = ("_in_turn", "ranked")

    def __init__(self) -> None:
        self._in_turn: deque[float] = deque()
        self.ranked: list[float] = []

    def add(self, seconds: float) -> None:
        """Take one more, and forget the oldest of too many."""
        if len(self._in_turn) == WINDOW:
            del self.ranked[bisect_left(self.ranked, self._in_turn.popleft())]
        self._in_turn.append(seconds)
        insort(self.ranked, seconds)
