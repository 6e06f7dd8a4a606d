"""What a remote says about its rate limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """A remote's rate limit on requests, as one reply's headers tell it; None where they do not.

    Attributes:
        remaining: requests left until the reset.
        reset_seconds: time until the limit is whole again, from the reply on, 0 to 3600.
        limit: requests that a whole window allows.
    """

    remaining: int | None = None
    reset_seconds: float | None = None
    limit: int | None = None
