"""How long local answers take: a small window of measurements per model."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock

WINDOW = 64
MAX_KEYS = 1024


class LatencyWindow:
    """The 95th percentile of the last 64 measurements of each key.

    Keys are bounded: the least recently measured one is forgotten first.
    """

    def __init__(self) -> None:
        self._samples: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def record(self, key: str, seconds: float) -> None:
        """Add one measurement."""
        with self._lock:
            samples = self._samples.setdefault(key, deque(maxlen=WINDOW))
            samples.append(seconds)
            self._samples.move_to_end(key)
            if len(self._samples) > MAX_KEYS:
                self._samples.popitem(last=False)

    def p95(self, key: str, *, default: float) -> float:
        """The 95th percentile in seconds, or `default` before the first measurement."""
        with self._lock:
            samples = sorted(self._samples.get(key, ()))
        if not samples:
            return default
        return samples[min(len(samples) - 1, int(0.95 * len(samples)))]
