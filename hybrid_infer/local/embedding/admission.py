"""How much may wait, and when a refused caller may come back. Pure."""

from __future__ import annotations

from typing import Protocol

from hybrid_infer.errors import OverloadedError

MAX_TEXTS = 262_144
MAX_TOKENS = 16_777_216
MIN_RETRY_SECONDS = 0.1
FIRST_TOKENS_PER_SECOND = 2_000.0  # until the first batch has been measured
SMOOTHING = 0.2


class Claim(Protocol):
    """What one request still has waiting.

    Attributes:
        waiting_texts: texts.
        waiting_tokens: their tokens.
    """

    waiting_texts: int
    waiting_tokens: int


class Admission:
    """Strict bounds of a queue in texts and tokens.

    A request larger than the whole queue is admitted when nothing else waits: its texts are in
    the caller's memory already, and refusing it would refuse it for ever.

    Args:
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
    """

    def __init__(self, max_texts: int, max_tokens: int) -> None:
        self._max_texts, self._max_tokens = max_texts, max_tokens
        self._tokens_per_second = FIRST_TOKENS_PER_SECOND
        self._has_measured = False
        self.texts = self.tokens = 0

    def admit(self, claim: Claim, texts: int, tokens: int) -> None:
        """Count a request in, of so many texts and tokens, and note them in its claim.

        Raises:
            OverloadedError: it does not fit; ``retry_after`` is how long what waits will take.
        """
        if self.texts and (
            self.texts + texts > self._max_texts or self.tokens + tokens > self._max_tokens
        ):
            raise OverloadedError(
                f"the local queue is full: {self.texts} texts with about {self.tokens} tokens wait, "
                f"at most {self._max_texts} texts and {self._max_tokens} tokens may",
                retry_after=max(MIN_RETRY_SECONDS, self.tokens / self._tokens_per_second),
            )
        self.texts += texts
        self.tokens += tokens
        claim.waiting_texts, claim.waiting_tokens = texts, tokens

    def release(self, claim: Claim, texts: int, tokens: int) -> None:
        """Count out what no longer waits, at most what is left of the claim."""
        texts, tokens = min(claim.waiting_texts, texts), min(claim.waiting_tokens, tokens)
        claim.waiting_texts -= texts
        claim.waiting_tokens -= tokens
        self.texts -= texts
        self.tokens -= tokens

    def release_all(self, claim: Claim) -> None:
        """Count out a request that has its answer."""
        self.texts -= claim.waiting_texts
        self.tokens -= claim.waiting_tokens
        claim.waiting_texts = claim.waiting_tokens = 0

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn from a batch how fast the engine is."""
        if not tokens or seconds <= 0:
            return
        rate = tokens / seconds
        weight = SMOOTHING if self._has_measured else 1.0
        self._tokens_per_second += weight * (rate - self._tokens_per_second)
        self._has_measured = True
