"""Values of header fields: numbers, durations and dates, read without ever raising."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_WAIT_SECONDS = 3600.0
MAX_COUNT = 2**53

Headers = list[tuple[bytes, bytes]]
Fields = list[tuple[str, str]]

_NUMBER = re.compile(r"[0-9]{1,64}(\.[0-9]{1,64})?")
_COUNT = re.compile(r"[0-9]{1,64}")
_DURATION_PART = re.compile(r"([0-9]{1,64}(?:\.[0-9]{1,64})?)(ms|h|m|s)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern}){{1,4}}")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_EPOCH_FROM = 1_000_000_000  # a reset larger than this is a date in seconds since 1970 …
_EPOCH_MILLISECONDS_FROM = 100_000_000_000  # … and larger than this, one in milliseconds


def decoded_fields(headers: Headers) -> Fields:
    """Names in lower case and values as text; doubled fields stay doubled."""
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def clamped(seconds: float) -> float | None:
    """`seconds` within 0 and 3600; None if it is no number."""
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_WAIT_SECONDS)


def number(text: str) -> float | None:
    """A plain decimal number, at most 3600; None for anything else, signs and exponents too."""
    text = text.strip()
    return min(float(text), MAX_WAIT_SECONDS) if _NUMBER.fullmatch(text) else None


def count(text: str) -> int | None:
    """A whole number, at most 2^53; None for anything else."""
    text = text.strip()
    return min(int(text), MAX_COUNT) if _COUNT.fullmatch(text) else None


def reset_seconds(text: str, served_at: datetime) -> float | None:
    """How far off a reset is, between 0 and 3600.

    Args:
        text: seconds, a duration such as ``6m0s`` or ``20ms`` (OpenAI's form), or a date in
            seconds or milliseconds since 1970.
        served_at: the reply's own clock; see `served_at`.
    """
    text = text.strip()
    if _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        return clamped(sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in parts))
    if _NUMBER.fullmatch(text) is None:
        return None
    seconds = float(text)
    if seconds > _EPOCH_MILLISECONDS_FROM:
        seconds /= 1000.0
    return clamped(seconds - served_at.timestamp() if seconds > _EPOCH_FROM else seconds)


def date(text: str) -> datetime | None:
    """An HTTP date; None for anything else."""
    try:
        parsed = parsedate_to_datetime(text.strip())
        return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # the standard library's parser raises all of these on garbage


def served_at(fields: Fields) -> datetime:
    """The reply's own clock, its ``Date``, so that a skewed local one does not matter."""
    for name, value in fields:
        if name == "date" and (found := date(value)) is not None:
            return found
    return datetime.now(UTC)
