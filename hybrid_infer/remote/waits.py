"""How long a reply asks to wait: parsers that never raise, whatever a server writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_infer.remote.header_values import (
    MAX_WAIT_SECONDS,
    Fields,
    Headers,
    clamped,
    date,
    decoded_fields,
    number,
    served_at,
)
from hybrid_infer.remote.rate_limits import families_in, items_in


def wait_seconds(headers: Headers, document: Any = None) -> float | None:
    """The wait that a reply names, in seconds from now.

    Understands ``Retry-After`` (seconds, or a date measured against the reply's own ``Date``),
    ``RateLimit: "api";r=0;t=55`` (only when nothing remains), ``X-RateLimit-Reset`` in its
    variants (unless its ``-Remaining`` says that something is left) and the body's
    ``estimated_time``.

    Args:
        headers: the reply's header fields, doubles included.
        document: its body, parsed; anything.

    Returns:
        The longest of the valid ones, between 0 and 3600; None if there is none.
    """
    fields = decoded_fields(headers)
    waits = [*_retry_after(fields), *_rate_limits(fields)]
    estimated = _estimated_time(document)
    if estimated is not None:
        waits.append(estimated)
    return max(waits, default=None)


def _retry_after(fields: Fields) -> Iterator[float]:
    for name, value in fields:
        if name != "retry-after":
            continue
        until = date(value)
        waits = (
            # A proxy may have joined two fields into one.
            [number(part) for part in value.split(",")]
            if until is None
            else [clamped((until - served_at(fields)).total_seconds())]
        )
        yield from (wait for wait in waits if wait is not None)


def _rate_limits(fields: Fields) -> Iterator[float]:
    """The resets of what is used up."""
    for name, value in fields:
        if name != "ratelimit":
            continue
        for item in items_in(value):
            if item.parameters.get("r") == 0 and "t" in item.parameters:
                yield min(float(item.parameters["t"]), MAX_WAIT_SECONDS)
    for family in families_in(fields).values():
        if family.may_be_spent:
            yield from family.resets


def _estimated_time(document: Any) -> float | None:
    value = document.get("estimated_time") if isinstance(document, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return MAX_WAIT_SECONDS if value > 0 else None
    return clamped(seconds) if seconds >= 0 else None
