"""References of a JSON schema that lead back to themselves, so that no text can match them.

A list whose items are such lists is no circle: each level adds a bracket, and some list is empty.
llguidance accepts a circle, and an answer that walks into one has no next token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_NAMED = frozenset({"properties", "patternProperties"})
_NESTED = frozenset({"additionalItems", "additionalProperties", "items", "prefixItems"})
_BESIDE = frozenset({"allOf", "anyOf", "oneOf"})


def has_circle(schema: Mapping[str, Any]) -> bool:
    """Whether a part of `schema` that an answer can come to only says that it is as it is.

    Args:
        schema: as it was parsed from JSON.
    """
    nodes = _nodes(schema)
    if any("$id" in node for node in nodes.values() if node is not schema):
        return False  # a reference may be meant from there, not from the root
    waiting: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for key, node in nodes.items():
        for number, group in enumerate(_groups(schema, node)):
            if all(isinstance(member, Mapping) for member in group):
                wanted[key].add(number)
                for member in group:
                    waiting[id(member)].append((key, number))
    fruitful = [key for key in nodes if not wanted[key]]
    while fruitful:
        for key, number in waiting.pop(fruitful.pop(), ()):
            if number in wanted[key]:
                wanted[key].remove(number)
                if not wanted[key]:
                    fruitful.append(key)
    return any(wanted.values())


def _nodes(schema: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Every schema in `schema` that an answer can come to, by its id."""
    nodes: dict[int, Mapping[str, Any]] = {}
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if isinstance(node, Mapping) and id(node) not in nodes:
            nodes[id(node)] = node
            left.extend(_inside(node))
            left.extend(member for group in _groups(schema, node) for member in group)
    return nodes


def _inside(node: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas of what a value of `node` is made of."""
    for key, value in node.items():
        if key in _NAMED and isinstance(value, Mapping):
            yield from value.values()
        elif key in _NESTED:
            yield from value if isinstance(value, list) else [value]


def _groups(schema: Mapping[str, Any], node: Mapping[str, Any]) -> list[list[Any]]:
    """Schemas that hold for the same value as `node`: one of each group must."""
    reference = node.get("$ref")
    groups = [[_target(schema, reference)]] if isinstance(reference, str) else []
    for key in _BESIDE & node.keys():
        members = node[key]
        if members and isinstance(members, list):  # else it is wrong, where the compiler passed by
            groups += [[member] for member in members] if key == "allOf" else [members]
    return groups


def _target(schema: Mapping[str, Any], reference: str) -> Any:
    """Where a reference within the document leads; None if it is of another kind."""
    found: Any = schema
    start, *steps = unquote(reference).split("/")
    if start != "#":
        return None
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found
