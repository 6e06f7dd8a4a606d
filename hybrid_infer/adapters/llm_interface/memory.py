"""What the interface remembers of its answers, for as long as each call asked for."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid_infer.adapters.llm_interface.responses import LLMResponse
from hybrid_infer.cache import LatestEntries
from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import InvalidRequestError

CACHE_NAME = "memory-cache"
MAX_ENTRIES = 100


class Memory:
    """Responses by what was asked, each until its own time. Safe to share between threads.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: LatestEntries[tuple[float, LLMResponse]] = LatestEntries(MAX_ENTRIES)

    def configure(self, config: Mapping[str, Any]) -> None:
        """See `Interface.configure_cache`."""
        if config.get("cache", CACHE_NAME) != CACHE_NAME:
            raise InvalidRequestError(
                f"the cache is {CACHE_NAME!r}, not {config['cache']!r}", argument="cache"
            )
        most = (config.get("config") or {}).get("max_entries", MAX_ENTRIES)
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise InvalidRequestError(
                f"max_entries must be at least 1, not {most!r}", argument="max_entries"
            )
        self._entries = LatestEntries(most)

    def flush(self) -> None:
        """Forget everything."""
        self._entries.drop(lambda _: True)

    def recall(self, key: bytes) -> LLMResponse | None:
        """A copy of what is remembered under `key`; None if there is nothing, or no longer."""
        (known,) = self._entries.find([key])
        if known is None or known[0] <= self._clock():
            return None
        response = copy.deepcopy(known[1])
        return replace(response, cache_type=CACHE_NAME, request_time=0.0, retries=0)

    def keep(self, key: bytes, response: LLMResponse, seconds: float) -> None:
        """Remember a copy of `response` for `seconds`."""
        entry = (self._clock() + seconds, copy.deepcopy(response))
        self._entries.put([(key, entry)], self._entries.epoch)


def key_of(question: Sequence[Any]) -> bytes | None:
    """A hash of what is asked, with every option; None for what is no JSON: the call refuses it."""
    try:
        plain = json.loads(json.dumps(question))
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=32).digest()
