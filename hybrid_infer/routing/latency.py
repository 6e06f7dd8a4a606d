"""How long answers take: a small window of measurements per key."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock

WINDOW = 64
MAX_KEYS = 1024


class LatencyWindow:
    """Quantiles of the last 64 measurements of each key.

    Keys are bounded: the least recently measured one is forgotten first.
    """

    def __init__(self) -> None:
        self._samples: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def record(self, key: str, seconds: float) -> None:
        """Add one measurement."""
        with self._lock:
            samples = self._samples.get(key)
            if samples is None:
                samples = self._samples[key] = deque(maxlen=WINDOW)
            samples.append(seconds)
            self._samples.move_to_end(key)
            if len(self._samples) > MAX_KEYS:
                self._samples.popitem(last=False)

    def count(self, key: str) -> int:
        """How many measurements there are of `key`, 64 at most."""
        return len(self._samples.get(key, ()))

    def p95(self, key: str, *, default: float) -> float:
        """The 95th percentile in seconds, or `default` before the first measurement."""
        return self.quantile(key, 0.95, default=default)

    def quantile(self, key: str, share: float, *, default: float) -> float:
        """The measurement that `share` of them do not exceed, or `default` before the first."""
        with self._lock:
            samples = sorted(self._samples.get(key, ()))
        if not samples:
            return default
        return samples[min(len(samples) - 1, int(share * len(samples)))]
