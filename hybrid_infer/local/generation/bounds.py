"""Numbers of a JSON schema that llguidance gets wrong, or that end the process.

It computes whole numbers as floats and as 64-bit integers, and near -2**63 its stack overflows: no
error that could be caught. Long ``multipleOf`` take it minutes that nothing bounds. So what is not
surely right, and soon, is refused before it sees it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

TOO_LARGE = 2**53  # from here on, not every whole number is a float
# A multiple's digits without the point are the states that find it: 0.06 s for 10,000, 3 s for 300,000.
MOST_STATES = 10_000

_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")
_MULTIPLE = "multipleOf"
_BOUNDS = (*_LOWER, *_UPPER, _MULTIPLE)
_ANNOTATIONS = frozenset({"default", "examples"})  # data that is not compiled
_NAMED = frozenset({"$defs", "definitions", "patternProperties", "properties"})
_BRANCHES = frozenset({"$ref", "anyOf", "oneOf"})
_HARMLESS = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated"}
    | {"description", "examples", "readOnly", "title", "writeOnly"}
)


def mappings(schema: Any, skipped: frozenset[str] = frozenset()) -> Iterator[Mapping[str, Any]]:
    """Every mapping in `schema`, itself included.

    Args:
        schema: as it was parsed from JSON.
        skipped: keywords that are not looked into. A property may be called like one of them.
    """
    left: list[tuple[Any, frozenset[str]]] = [(schema, skipped)]
    while left:
        node, unread = left.pop()
        if isinstance(node, list | tuple):
            left.extend((member, skipped) for member in node)
        elif isinstance(node, Mapping):
            yield node
            left.extend(
                (value, frozenset() if key in _NAMED else skipped)
                for key, value in node.items()
                if key not in unread
            )


def may_intersect(node: Mapping[str, Any]) -> bool:
    """Whether several schemas may hold for the same text because of `node`."""
    branches = _BRANCHES & node.keys()
    has_siblings = branches and (len(branches) > 1 or node.keys() - _BRANCHES - _HARMLESS)
    return bool(has_siblings or {"allOf", "patternProperties"} & node.keys())


def check_numbers(schema: Mapping[str, Any]) -> None:
    """Refuse a schema whose numbers are not surely obeyed.

    Args:
        schema: as it was parsed from JSON.

    Raises:
        ValueError: one is too large, takes too long, or is a bound that is excluded and would be
            let through.
    """
    nodes = list(mappings(schema, _unread(schema)))
    for node in nodes:
        numbers = [
            *_numbers(node, *_BOUNDS),
            *_numbers_within([node.get("const"), node.get("enum")]),
        ]
        if any(abs(number) >= TOO_LARGE for number in numbers):
            raise ValueError("its schema has a number of 2**53 or more, or of -2**53 or less")
    ranged = [node for node in nodes if node.get("type") != "integer"]
    multiples = [
        Decimal(str(abs(number))) for node in nodes for number in _numbers(node, _MULTIPLE)
    ]
    states = sum(_states([multiple]) for multiple in multiples)
    if any(map(may_intersect, nodes)):  # which of them hold together is not found out
        states = max(states, _states(multiples))
        _check_ranges(ranged)
    else:
        for node in ranged:
            _check_ranges([node])
    if states > MOST_STATES:
        raise ValueError(f"its schema has multipleOf with more than {MOST_STATES} steps together")


def _unread(schema: Mapping[str, Any]) -> frozenset[str]:
    """Keywords whose data no reference takes for a schema."""
    references = [unquote(str(node["$ref"])) for node in mappings(schema) if "$ref" in node]
    return frozenset(
        word for word in _ANNOTATIONS if not any(word in reference for reference in references)
    )


def _numbers(node: Mapping[str, Any], *names: str) -> list[float]:
    """The numbers that `node` has under some names."""
    return [node[name] for name in names if _is_number(node.get(name))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers_within(data: list[Any]) -> list[float]:
    """All numbers in `data`, however deep."""
    found: list[float] = []
    while data:
        value = data.pop()
        if isinstance(value, Mapping):
            data.extend(value.values())
        elif isinstance(value, list | tuple):
            data.extend(value)
        elif _is_number(value):
            found.append(value)
    return found


def _states(multiples: Sequence[Decimal]) -> int:
    """The least number that is a multiple of all, in their last digit; or any above MOST_STATES."""
    places = max((_places(multiple) for multiple in multiples), default=0)
    states = 1
    for multiple in multiples:
        states = math.lcm(states, int(multiple.scaleb(places)))
        if states > MOST_STATES:
            break
    return states


def _places(number: Decimal) -> int:
    """Digits behind the point."""
    return max(0, -int(number.normalize().as_tuple().exponent))


def _check_ranges(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse bounds, if they hold together, of which an excluded one would be let through.

    llguidance 1.9 does so with a whole number if another bound is less than 1 away from it, and
    further from zero.

    Raises:
        ValueError: one would.
    """
    lower, upper = _LOWER, _UPPER
    for sign in (1, -1):
        beyond = [sign * bound for node in nodes for bound in _numbers(node, *upper)]
        for node in nodes:
            for low in (sign * bound for bound in _excluded(node, *lower)):
                if low >= 0 and low == int(low) and any(low < high < low + 1 for high in beyond):
                    raise ValueError(
                        f"its schema excludes {int(sign * low)}, close to another bound"
                    )
        lower, upper = upper, lower


def _excluded(node: Mapping[str, Any], plain: str, name: str) -> list[float]:
    """The bounds of `node` that are excluded on one side; an older draft says it with True."""
    return _numbers(node, plain if node.get(name) is True else name)
