"""What a remote says of its own rate limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """One answer's rate-limit headers; None where they say nothing.

    Attributes:
        remaining: requests left in the present window.
        reset_seconds: time until the window ends.
        limit: requests of a whole window.
        window_seconds: length of a whole window.
    """

    remaining: int | None = None
    reset_seconds: float | None = None
    limit: int | None = None
    window_seconds: float | None = None
