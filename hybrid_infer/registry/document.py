"""A configuration document: plain values that remember the line they came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.names import shown

MAX_DEPTH = 10
MAX_VALUES = 10_000
MAX_INTEGER = 2**53

Scalar: TypeAlias = bool | int | float | str | None
Path: TypeAlias = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(slots=True)
class Node:
    """One value.

    Attributes:
        content: a scalar, or a mapping of key to (the key's line, value), or a list.
        line: where it starts, counted from 1; None where there are no lines.
        size: how many values it is once references are expanded.
    """

    content: Scalar | dict[str, tuple[int | None, Node]] | list[Node]
    line: int | None = None
    size: int = 1

    def plain(self) -> Any:
        """The value as ordinary dicts, lists and scalars."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, (_, node) in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return self.content


@dataclass(frozen=True, slots=True)
class Document:
    """A tree of nodes and what error messages call its source: a path, or an argument's name."""

    source: str
    root: Node

    def line(self, path: Path) -> int | None:
        """The line of the key or item that `path` leads to, or of the nearest one above it."""
        node, line = self.root, self.root.line
        for step in path:
            if isinstance(node.content, dict) and step in node.content:
                line, node = node.content[str(step)]
            elif isinstance(node.content, list) and isinstance(step, int):
                node = node.content[step]
                line = node.line
            else:
                break
        return line

    def error(self, path: Path, message: str) -> ConfigError:
        """An error about the value at `path`; `message` is complete but for the place."""
        return config_error(self.source, self.line(path), message)


def config_error(source: str, line: int | None, message: str) -> ConfigError:
    """``source:line: message``."""
    return ConfigError(f"{source}: {message}" if line is None else f"{source}:{line}: {message}")


def dotted(path: Path) -> str:
    """``embeddings.small.dim`` or ``remotes[0].name``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = shown(step)
            text += f".{step}" if name == f"'{step}'" and _PLAIN_KEY.fullmatch(step) else f".{name}"
    return text.removeprefix(".")


def within(path: Path) -> str:
    """``in embeddings.small``, or ``at the top level``."""
    return f"in {dotted(path)}" if path else "at the top level"


def document_from_mapping(source: str, mapping: Mapping[str, Any]) -> Document:
    """A document of a Python mapping, which may hold what YAML may hold.

    Raises:
        ConfigError: it holds something else, is nested too deeply or is too large.
    """
    return Document(source, _MappingReader(source).node(mapping, ()))


class _MappingReader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._values = 0

    def node(self, value: object, path: Path) -> Node:
        self._values += 1
        if self._values > MAX_VALUES:
            raise ConfigError(f"{self._source}: more than {MAX_VALUES:,} values")
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"{self._source}: nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, Mapping):
            return Node(
                {
                    self._key(key, path): (None, self.node(item, (*path, key)))
                    for key, item in value.items()
                }
            )
        if isinstance(value, list | tuple):
            return Node([self.node(item, (*path, index)) for index, item in enumerate(value)])
        if value is None or isinstance(value, bool | int | float | str):
            problem = scalar_problem(value)
            if problem is None:
                return Node(value)
            raise ConfigError(f"{self._source}: {dotted(path)}: {problem}")
        raise ConfigError(
            f"{self._source}: {dotted(path)} is a {type(value).__name__}; "
            "only mappings, lists, text, numbers, booleans and None are accepted"
        )

    def _key(self, key: object, path: Path) -> str:
        if not isinstance(key, str):
            raise ConfigError(f"{self._source}: a key {within(path)} is not text")
        if scalar_problem(key):
            raise ConfigError(f"{self._source}: a key {within(path)} is not valid text")
        return key


def scalar_problem(value: Scalar) -> str | None:
    """Why a scalar is refused wherever it stands, or None."""
    if isinstance(value, str):
        return None if _is_unicode(value) else "the text holds half a surrogate pair"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return "the number is too large; if it is text, put it in quotes"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
