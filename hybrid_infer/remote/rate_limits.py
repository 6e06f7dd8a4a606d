"""The rate limit that a reply's headers tell; parsers that never raise, whatever a server writes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from hybrid_infer.datatypes.limits import RateLimitState
from hybrid_infer.remote.header_values import (
    MAX_WAIT_SECONDS,
    Fields,
    Headers,
    count,
    decoded_fields,
    reset_seconds,
    served_at,
)

_MARK = b"ratelimit"
_FAMILY_HEADER = re.compile(r"(?:x-)?ratelimit-(limit|remaining|reset)(|-requests|-tokens)")
_TOKENS = "-tokens"
_ITEM = re.compile(r'(?:"[^"]*"|[^,"])+')
_PARAMETER = re.compile(r"(?:^|;)\s*([rtqw])\s*=\s*([0-9]{1,64})\s*(?=;|$)")
_NAME = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Item:
    """One policy in a ``RateLimit`` or ``RateLimit-Policy`` field: quoted names, parameters."""

    names: frozenset[str]
    parameters: dict[str, int]


@dataclass(slots=True)
class Family:
    """One ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset``, doubles included.

    Vendors keep several side by side: plain, ``-Requests`` and ``-Tokens``.
    """

    limits: list[int] = field(default_factory=list)
    remaining: list[int] = field(default_factory=list)
    resets: list[float] = field(default_factory=list)

    @property
    def may_be_spent(self) -> bool:
        """Whether nothing says that something is left."""
        return not any(self.remaining)

    def add(self, kind: str, value: str, served: datetime) -> None:
        """Take one field; what is no number is left out."""
        amount = value.partition(",")[0].partition(";")[0]
        if kind == "reset":
            seconds = reset_seconds(amount, served)
            if seconds is not None:
                self.resets.append(seconds)
            return
        number = count(amount)
        if number is not None:
            (self.limits if kind == "limit" else self.remaining).append(number)

    def state(self) -> RateLimitState:
        """The tightest reading of what was said."""
        return RateLimitState(
            remaining=min(self.remaining, default=None),
            reset_seconds=max(self.resets, default=None),
            limit=min(self.limits, default=None),
        )


def items_in(value: str) -> Iterator[Item]:
    """The policies that one ``RateLimit`` or ``RateLimit-Policy`` field lists.

    The form is that of draft-ietf-httpapi-ratelimit-headers, from its eighth version on, and
    Hugging Face's variant of it, which quotes two names.
    """
    for text in _ITEM.findall(value):
        names = frozenset(_NAME.findall(text))
        bare = _NAME.sub("", text)
        parameters = {key: count(digits) or 0 for key, digits in _PARAMETER.findall(bare)}
        if parameters:
            yield Item(names, parameters)


def families_in(fields: Fields) -> dict[str, Family]:
    """The ``X-RateLimit-*`` fields by what they count: ``""``, ``-requests``, ``-tokens``."""
    families: dict[str, Family] = {}
    served: datetime | None = None
    for name, value in fields:
        match = _FAMILY_HEADER.fullmatch(name)
        if match is None:
            continue
        served = served or served_at(fields)
        families.setdefault(match[2], Family()).add(match[1], value, served)
    return families


def rate_limit_state(headers: Headers) -> RateLimitState | None:
    """The limit on requests that a reply's headers tell, on 200 as on 429.

    Understands ``RateLimit: "api";r=…;t=…`` with ``RateLimit-Policy: "api";q=…;w=…``, and
    ``X-RateLimit-Limit``, ``-Remaining``, ``-Reset``, with or without ``X-`` and ``-Requests``.
    Limits on tokens are left out: they do not say how many requests fit.

    Args:
        headers: the reply's header fields, doubles included.

    Returns:
        The limit that is closest to being used up; None if no header tells one.
    """
    if not any(_MARK in name.lower() for name, _ in headers):
        return None
    fields = decoded_fields(headers)
    states = [family.state() for suffix, family in families_in(fields).items() if suffix != _TOKENS]
    states += _policy_states(fields)
    told = [state for state in states if state != RateLimitState()]
    return min(told, key=_slack, default=None)


def _policy_states(fields: Fields) -> list[RateLimitState]:
    policies = [
        item for name, value in fields if name == "ratelimit-policy" for item in items_in(value)
    ]
    limits = [item for name, value in fields if name == "ratelimit" for item in items_in(value)]
    if not limits:
        return [_policy_state({}, policy.parameters) for policy in policies]
    return [_policy_state(item.parameters, _policy_of(item, policies)) for item in limits]


def _policy_of(item: Item, policies: list[Item]) -> dict[str, int]:
    named = [policy for policy in policies if policy.names & item.names]
    found = named or (policies if len(policies) == 1 else [])
    return found[0].parameters if found else {}


def _policy_state(limit: dict[str, int], policy: dict[str, int]) -> RateLimitState:
    reset = limit.get("t")
    return RateLimitState(
        remaining=limit.get("r"),
        reset_seconds=None if reset is None else min(float(reset), MAX_WAIT_SECONDS),
        limit=policy.get("q"),
    )


def _slack(state: RateLimitState) -> tuple[float, float]:
    remaining = math.inf if state.remaining is None else state.remaining
    return remaining, -(state.reset_seconds or 0.0)
