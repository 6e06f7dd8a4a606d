"""Who is computed next in the decoding loop. Pure: no torch, no clock, no threads.

Requests are admitted in the order in which they came; the first that does not fit keeps the others
back, so that a long one is never passed over for ever. What is admitted is decoded in every step.
Between two steps a piece of the prompts is computed, which takes about as long as a step; or with a step, where
the decoder can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from hybrid_infer.errors import InsufficientMemoryError, OverloadedError

SHORTEST_EXTENT = 256
# Of a piece: as many cost about as much as one, for the weights are read anyway.
MIN_PREFILL_TOKENS = 32
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
        prefill_tokens: tokens of a prompt that are computed at once.
    """

    rows: int = 32
    cache_tokens: int = 1 << 20
    waiting: int = 256
    prefill_tokens: int = 256

    @classmethod
    def on(cls, device: str) -> Limits:
        """Those that suit a device: a GPU reads its weights in the time of hundreds of tokens."""
        return cls(rows=128, prefill_tokens=2048) if device.startswith("cuda") else cls()


def extent(places: int) -> int:
    """Tokens that a cache has room for when an answer may have `places`: two sizes an octave."""
    octave = max(SHORTEST_EXTENT, 1 << (places - 1).bit_length())
    smaller = octave * 3 // 4
    return smaller if octave > SHORTEST_EXTENT and places <= smaller else octave


def most_places(tokens: int) -> int:
    """Places of the longest answer that a cache with room for `tokens` can hold; 0 if of none."""
    octave = max(SHORTEST_EXTENT, 1 << tokens.bit_length())
    sizes = (octave * 3 // 4, octave // 2, SHORTEST_EXTENT)
    return next((size for size in sizes if extent(size) <= tokens), 0)


class Schedule(Generic[JobT]):
    """The queue in front of a decoding loop.

    Args:
        limits: its bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[tuple[JobT, int]] = deque()
        self._tokens_per_second = FIRST_TOKENS_PER_SECOND
        self._step_seconds = 0.0
        self._prompt_token_seconds = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def check_room(self, waiting: int) -> None:
        """Refuse one more request if `waiting` are too many already.

        Args:
            waiting: requests, those that were not added yet among them.

        Raises:
            OverloadedError: ``retry_after`` is an estimate of how long those ahead will take.
        """
        if waiting < self._limits.waiting:
            return
        known = [places for _, places in self._waiting]
        usual = sum(known) / len(known) if known else SHORTEST_EXTENT
        tokens = sum(known) + usual * (waiting - len(known))
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
        if extent(places) > self._limits.cache_tokens:
            raise InsufficientMemoryError(
                f"prompt and answer may have {places} tokens, which take room for "
                f"{extent(places)}, and there is memory for {self._limits.cache_tokens}; "
                "ask for fewer max_tokens"
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
            tokens = extent(places) + sum(map(extent, places_in_use))
            if len(places_in_use) >= self._limits.rows or tokens > self._limits.cache_tokens:
                return None
            self._waiting.popleft()
            return job
        return None

    def prefill_size(self, tokens_left: int, *, is_alone: bool, is_mixed: bool = False) -> int:
        """How many tokens of prompts to compute at once.

        Args:
            tokens_left: of the prompts.
            is_alone: whether no answer waits for its next token meanwhile.
            is_mixed: whether answers get it in the same pass: that pass may take as long as a piece
                and a step after it do otherwise.
        """
        size = self._limits.prefill_tokens
        if not is_alone and self._prompt_token_seconds > 0.0:
            beside = int(self._step_seconds / self._prompt_token_seconds)
            size = min(size, max(beside, MIN_PREFILL_TOKENS) * (2 if is_mixed else 1))
        return min(tokens_left, size)

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn how long a step took that gave `tokens` answers a token each."""
        if tokens and seconds > 0.0:
            self._tokens_per_second = _smoothed(self._tokens_per_second, tokens / seconds)
            self._step_seconds = _smoothed(self._step_seconds or seconds, seconds)

    def measured_prefill(self, tokens: int, seconds: float) -> None:
        """Learn how long `tokens` tokens of a prompt took."""
        if tokens:
            each = seconds / tokens
            self._prompt_token_seconds = _smoothed(self._prompt_token_seconds or each, each)

    def forget(self, is_gone: Callable[[JobT], bool]) -> None:
        """Forget those of whom `is_gone` is true, wherever they wait: they keep nobody out."""
        self._waiting = deque(entry for entry in self._waiting if not is_gone(entry[0]))

    def clear(self) -> None:
        """Forget whoever waits."""
        self._waiting.clear()


def _smoothed(average: float, newest: float) -> float:
    return average + SMOOTHING * (newest - average)
