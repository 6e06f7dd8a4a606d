"""Reads YAML into a `Document`. The only module that imports PyYAML.

Values are built from parser events rather than by PyYAML's own constructors, so that no tag is
ever acted upon, lines are kept, doubled keys are seen, and nesting and references are bounded
before anything is built. Scalars follow YAML 1.1 as ``safe_load`` does, less dates and
base-60 numbers, which stay text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from yaml import events

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.document import (
    MAX_DEPTH,
    MAX_VALUES,
    Document,
    Node,
    Scalar,
    config_error,
    scalar_problem,
)
from hybrid_infer.registry.names import shown

MAX_FILE_BYTES = 64 * 1024
MAX_REFERENCES = 64
LONGEST_NUMBER = 64

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR: Any = yaml.constructor.SafeConstructor()
_TAG = "tag:yaml.org,2002:"


def parse_yaml(source: str, data: bytes, *, loader: Any = LOADER) -> Document:
    """The document in `data`.

    Args:
        source: what error messages call it, a path.
        data: UTF-8, at most `MAX_FILE_BYTES`.
        loader: PyYAML's loader class, in C where libyaml is there.

    Raises:
        ConfigError: it is not one YAML mapping within the limits; the message names the line.
    """
    text = _decoded(source, data)
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        problem = error.problem or "not valid YAML"
        if "\t" in _indentation(text, line):
            problem = "a tab in the indentation; YAML is indented with spaces"
        raise config_error(source, line + 1, problem) from None
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise config_error(source, line, "a control character is not allowed here") from None
    if builder.root is None:
        raise config_error(source, None, "the file is empty; it must hold a mapping")
    if not isinstance(builder.root.content, dict):
        raise config_error(source, builder.root.line, "the top level must be a mapping")
    return Document(source, builder.root)


def _indentation(text: str, line: int) -> str:
    row = text.split("\n")[line : line + 1] or [""]
    return row[0][: len(row[0]) - len(row[0].lstrip())]


def _decoded(source: str, data: bytes) -> str:
    if len(data) > MAX_FILE_BYTES:
        raise config_error(source, None, f"the file is larger than {MAX_FILE_BYTES // 1024} KiB")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise config_error(source, 1, "starts with a byte order mark; save it as plain UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise config_error(source, line, "not valid UTF-8") from None


@dataclass(slots=True)
class _Key:
    name: str
    line: int


class _Builder:
    """Takes parser events one by one; `root` is the value once all are taken."""

    def __init__(self, source: str) -> None:
        self.root: Node | None = None
        self._source = source
        self._open: list[tuple[Node, _Key | None]] = []  # collections, each with its place above
        self._key: _Key | None = None
        self._anchors: dict[str, Node] = {}
        self._references = 0
        self._documents = 0
        self._handlers: dict[type[events.Event], Callable[[Any, int], None]] = {
            events.DocumentStartEvent: self._start_document,
            events.AliasEvent: self._refer,
            events.ScalarEvent: self._scalar,
            events.MappingStartEvent: self._start_collection,
            events.SequenceStartEvent: self._start_collection,
            events.MappingEndEvent: self._end_collection,
            events.SequenceEndEvent: self._end_collection,
        }

    def take(self, event: events.Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, event.start_mark.line + 1 if event.start_mark else 1)

    def _error(self, line: int, message: str) -> ConfigError:
        return config_error(self._source, line, message)

    def _start_document(self, _event: events.DocumentStartEvent, line: int) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._error(line, "a second document (---) is not allowed")

    def _scalar(self, event: events.ScalarEvent, line: int) -> None:
        self._refuse_tag(event.tag, line)
        value = self._resolved(event.value, line) if event.implicit[0] else event.value
        problem = scalar_problem(value)
        if problem:
            raise self._error(line, problem)
        if self._expects_key():
            self._take_key(value, line)
            return
        node = Node(value, line)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._place(node, line)

    def _resolved(self, text: str, line: int) -> Scalar:
        tag = str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return bool(_CONSTRUCTOR.bool_values[text.lower()])
        if tag == "merge":
            raise self._error(line, "merge keys (<<) are not supported")
        if tag not in ("int", "float") or ":" in text:
            return text
        node = yaml.ScalarNode(tag, text)
        if len(text) > LONGEST_NUMBER:
            raise self._error(line, "the number is too long; if it is text, put it in quotes")
        try:
            if tag == "int":
                return int(_CONSTRUCTOR.construct_yaml_int(node))
            return float(_CONSTRUCTOR.construct_yaml_float(node))
        except ValueError:
            raise self._error(line, "not a number; if it is text, put it in quotes") from None

    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1][0].content, dict) and not self._key

    def _take_key(self, value: Scalar, line: int) -> None:
        if not isinstance(value, str):
            raise self._error(line, "a key must be text; put it in quotes")
        content = self._open[-1][0].content
        if isinstance(content, dict) and value in content:
            first = content[value][0]
            raise self._error(line, f"duplicate key {shown(value)}, first on line {first}")
        self._key = _Key(value, line)

    def _start_collection(
        self, event: events.MappingStartEvent | events.SequenceStartEvent, line: int
    ) -> None:
        self._refuse_tag(event.tag, line)
        if self._expects_key():
            raise self._error(line, "a key must be text, not a list or a mapping")
        if len(self._open) >= MAX_DEPTH:
            raise self._error(line, f"nested more than {MAX_DEPTH} levels deep")
        node = Node({} if isinstance(event, events.MappingStartEvent) else [], line)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._open.append((node, self._key))
        self._key = None

    def _end_collection(self, _event: events.CollectionEndEvent, line: int) -> None:
        node, self._key = self._open.pop()
        self._place(node, line)

    def _refer(self, event: events.AliasEvent, line: int) -> None:
        self._references += 1
        if self._references > MAX_REFERENCES:
            raise self._error(line, f"more than {MAX_REFERENCES} references (*name)")
        if self._expects_key():
            raise self._error(line, "a key must be text, not a reference (*name)")
        anchor = str(event.anchor)
        node = self._anchors.get(anchor)
        if node is None:
            raise self._error(line, f"*{anchor[:64]} refers to nothing above it")
        if any(node is opened for opened, _ in self._open):
            raise self._error(line, f"*{anchor[:64]} refers to itself")
        self._place(node, line)

    def _place(self, node: Node, line: int) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1][0]
        parent.size += node.size
        if parent.size > MAX_VALUES:
            raise self._error(line, f"more than {MAX_VALUES:,} values")
        if isinstance(parent.content, dict) and self._key:
            parent.content[self._key.name] = (self._key.line, node)
            self._key = None
        elif isinstance(parent.content, list):
            parent.content.append(node)

    def _refuse_tag(self, tag: str | None, line: int) -> None:
        if tag is not None:
            raise self._error(line, "tags (!name) are not supported")
