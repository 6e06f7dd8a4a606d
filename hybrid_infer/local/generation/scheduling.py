"""Who is computed next in the decoding loop. Pure: no torch, no clock, no threads.

Requests are admitted in the order in which they came; the first that does not fit keeps the others
back, so that a long one is never passed over for ever. What is admitted is decoded in every step, and
one prompt at most is computed between two steps, in pieces while others are being answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from hybrid_infer.errors import InsufficientMemoryError, OverloadedError

MIN_RETRY_SECONDS = 0.1
FIRST_TOKENS_PER_SECOND = 20.0  # until the first step has been measured
SMOOTHING = 0.1

JobT = TypeVar("JobT")


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one decoding loop.

    Attributes:
        rows: answers that are computed at the same time.
        cache_tokens: tokens that the cache may have room for, padding included.
        waiting: requests that may wait.
        prefill_tokens: tokens of a prompt that are computed between two steps of other answers.
    """

    rows: int = 32
    cache_tokens: int = 1 << 20
    waiting: int = 256
    prefill_tokens: int = 256


class Schedule(Generic[JobT]):
    """The queue in front of a decoding loop.

    Args:
        limits: its bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[tuple[JobT, int]] = deque()
        self._tokens_per_second = FIRST_TOKENS_PER_SECOND

    def __len__(self) -> int:
        return len(self._waiting)

    def check_room(self, waiting: int) -> None:
        """Refuse one more request if `waiting` are too many already.

        Raises:
            OverloadedError: ``retry_after`` is how long those ahead will take, at most.
        """
        if waiting < self._limits.waiting:
            return
        tokens = sum(places for _, places in self._waiting)
        raise OverloadedError(
            f"the local queue is full ({waiting} chats wait)",
            retry_after=max(MIN_RETRY_SECONDS, tokens / self._tokens_per_second),
        )

    def add(self, job: JobT, places: int) -> None:
        """Let a request wait.

        Args:
            job: the request.
            places: tokens of its prompt and of its longest answer.

        Raises:
            InsufficientMemoryError: it would not fit even alone.
        """
        if places > self._limits.cache_tokens:
            raise InsufficientMemoryError(
                f"prompt and answer may have {places} tokens, and there is memory for "
                f"{self._limits.cache_tokens}; ask for fewer max_tokens"
            )
        self._waiting.append((job, places))

    def next(
        self, places_in_use: Collection[int], is_wanted: Callable[[JobT], bool]
    ) -> JobT | None:
        """The request that may start now, or None.

        Args:
            places_in_use: what was reserved for each answer under way.
            is_wanted: whether somebody still waits for a request; the others are forgotten.
        """
        while self._waiting:
            job, places = self._waiting[0]
            if not is_wanted(job):
                self._waiting.popleft()
                continue
            rows = len(places_in_use) + 1
            longest = max(places, *places_in_use, 0)
            if rows > self._limits.rows or rows * longest > self._limits.cache_tokens:
                return None
            self._waiting.popleft()
            return job
        return None

    def prefill_size(self, tokens_left: int, *, is_alone: bool) -> int:
        """How many tokens of a prompt to compute before the next step of the other answers."""
        return tokens_left if is_alone else min(tokens_left, self._limits.prefill_tokens)

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn from a step how fast the loop is."""
        if seconds > 0.0:
            self._tokens_per_second += SMOOTHING * (tokens / seconds - self._tokens_per_second)

    def clear(self) -> None:
        """Forget whoever waits."""
        self._waiting.clear()
