"""Checks of single values, each naming the argument at fault."""

from __future__ import annotations

import json
import math
from typing import Any

from hybrid_infer.errors import InvalidRequestError

MAX_DEADLINE_SECONDS = 7 * 86_400.0  # a week; poll(2) can wait for 24.8 days


def check_json(value: Any, argument: str) -> None:
    """`value` must be something that JSON can carry.

    Raises:
        InvalidRequestError: it is not; the error names `argument`.
    """
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        raise InvalidRequestError(
            f"{argument} holds a value that cannot be sent as JSON", argument=argument
        ) from None


def check_bool(value: Any, argument: str) -> None:
    """`value` must be True or False.

    Raises:
        InvalidRequestError: it is not; the error names `argument`.
    """
    if not isinstance(value, bool):
        raise InvalidRequestError(
            f"{argument} must be True or False, not {value!r}", argument=argument
        )


def checked_integer(
    value: Any, argument: str, *, least: int, most: int | None = None
) -> int | None:
    """`value` as an int within its bounds; None stays None. A bool is no int.

    Raises:
        InvalidRequestError: it is not; the error names `argument`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidRequestError(f"{argument} must be an int, not {value!r}", argument=argument)
    number = int(value)
    if number < least or (most is not None and number > most):
        raise InvalidRequestError(
            f"{argument} must be at least {least}{f' and at most {most}' if most else ''}, "
            f"not {number}",
            argument=argument,
        )
    return number


def checked_number(value: Any, argument: str, least: float, most: float) -> float | None:
    """`value` as a finite float within its bounds; None stays None.

    Raises:
        InvalidRequestError: it is not; the error names `argument`.
    """
    if value is None:
        return None
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise InvalidRequestError(f"{argument} must be a number, not {value!r}", argument=argument)
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not least <= number <= most:
        raise InvalidRequestError(
            f"{argument} must be between {least:g} and {most:g}, not {value!r}", argument=argument
        )
    return number


def checked_nucleus(value: Any) -> float | None:
    """`value` as a nucleus mass in (0, 1]; None stays None.

    Raises:
        InvalidRequestError: it is not; the error names `argument`.
    """
    number = checked_number(value, "top_p", 0.0, 1.0)
    if number == 0.0:
        raise InvalidRequestError("top_p must be above 0", argument="top_p")
    return number


def checked_deadline(value: Any, argument: str = "deadline") -> float | None:
    """A call's time limit in seconds, or None.

    Raises:
        InvalidRequestError: not a number above 0, or longer than `MAX_DEADLINE_SECONDS`.
    """
    number = checked_number(value, argument, 0.0, MAX_DEADLINE_SECONDS)
    if number == 0.0:
        raise InvalidRequestError(f"{argument} must be above 0 seconds", argument=argument)
    return number
