"""How long a reply asks to wait: parsers that never raise, whatever a server writes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

MAX_WAIT_SECONDS = 3600.0

_NUMBER = re.compile(r"[0-9]{1,64}(\.[0-9]{1,64})?")
_RATE_LIMIT_ITEM = re.compile(r"(?:^|;)\s*([rt])\s*=\s*([0-9]{1,64})\s*(?=;|$)")
_RESET_HEADERS = ("x-ratelimit-reset", "x-ratelimit-reset-requests", "ratelimit-reset")
_REMAINING_HEADERS = ("x-ratelimit-remaining", "ratelimit-remaining")
_EPOCH_FROM = 1_000_000_000  # a reset larger than this is a date in seconds since 1970

Headers = list[tuple[bytes, bytes]]


def wait_seconds(headers: Headers, document: Any = None) -> float | None:
    """The wait that a reply names, in seconds from now.

    Understands ``Retry-After`` (seconds, or a date measured against the reply's own ``Date``),
    ``RateLimit: "api";r=0;t=55`` (only when nothing remains), ``X-RateLimit-Reset`` (seconds
    or a date in seconds since 1970, unless requests remain) and the body's ``estimated_time``.

    Args:
        headers: the reply's header fields, doubles included.
        document: its body, parsed; anything.

    Returns:
        The longest of the valid ones, between 0 and 3600; None if there is none.
    """
    fields = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    served_at = _served_at(fields)
    waits: list[float | None] = [_estimated_time(document)]
    is_spent = not any(
        (_number(value) or 0) > 0 for name, value in fields if name in _REMAINING_HEADERS
    )
    for name, value in fields:
        if name == "retry-after":
            waits.extend(_retry_after(value, served_at))
        elif name == "ratelimit":
            waits.append(_rate_limit(value))
        elif name in _RESET_HEADERS and is_spent:
            waits.append(_reset(value, served_at))
    named = [wait for wait in waits if wait is not None]
    return max(named) if named else None


def clamped(seconds: float) -> float | None:
    """`seconds` within 0 and 3600; None if it is no number."""
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_WAIT_SECONDS)


def _served_at(fields: list[tuple[str, str]]) -> datetime:
    """The reply's own clock, so that a skewed local one does not matter."""
    for name, value in fields:
        if name == "date" and (date := _date(value)) is not None:
            return date
    return datetime.now(UTC)


def _retry_after(value: str, served_at: datetime) -> list[float | None]:
    date = _date(value)
    if date is not None:
        return [clamped((date - served_at).total_seconds())]
    # A proxy may have joined two fields into one.
    return [_number(part) for part in value.split(",")]


def _rate_limit(value: str) -> float | None:
    """The reset of the policy that is used up, of those that one field may list."""
    waits = []
    for policy in value.split(","):
        items = dict(_RATE_LIMIT_ITEM.findall(policy))
        if "r" in items and int(items["r"]) == 0 and "t" in items:
            waits.append(min(float(items["t"]), MAX_WAIT_SECONDS))
    return max(waits, default=None)


def _reset(value: str, served_at: datetime) -> float | None:
    text = value.strip()
    if _NUMBER.fullmatch(text) is None:
        return None
    seconds = float(text)
    return clamped(seconds - served_at.timestamp() if seconds > _EPOCH_FROM else seconds)


def _estimated_time(document: Any) -> float | None:
    value = document.get("estimated_time") if isinstance(document, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return MAX_WAIT_SECONDS if value > 0 else None
    return clamped(seconds) if seconds >= 0 else None


def _number(text: str) -> float | None:
    text = text.strip()
    return min(float(text), MAX_WAIT_SECONDS) if _NUMBER.fullmatch(text) else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text.strip())
        return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # the standard library's parser raises all of these on garbage
