"""Rows of an input, good and bad, and the windows that they are embedded in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hybrid_infer.client.texts import checked_text, is_plain
from hybrid_infer.client.windows import WindowCutter
from hybrid_infer.errors import InvalidRequestError

EMBEDDING = "embedding"


@dataclass(slots=True)  # not frozen: there are millions, and that takes three times as long
class Row:
    """One row of the input.

    Attributes:
        file: the name of the file it is from.
        line: its line there, counted from 1; in a Parquet file its row.
        text: what is embedded; anything but a ``str`` makes it a bad row.
        record: the row with all its columns: a mapping, or a batch of Arrow and a place in it.
        problem: why it cannot be embedded; empty if it can.
        position: how far into all of the input the row ends, in the unit of `Source.total`.
    """

    file: str
    line: int
    text: Any = None
    record: Any = None
    problem: str = ""
    position: int = 0


@dataclass(slots=True)
class Window:
    """Rows that are embedded by one call and written as one part."""

    rows: list[Row] = field(default_factory=list)
    bad: list[Row] = field(default_factory=list)
    num_read: int = 0
    position: int = 0

    @property
    def texts(self) -> list[str]:
        """The texts of its good rows."""
        return [row.text for row in self.rows]


def judged(row: Row) -> Row:
    """`row`, with its problem if its text cannot be embedded."""
    if row.problem:
        return row
    try:
        checked_text(row.text, "the text")
    except InvalidRequestError as error:
        return refused(row, error.message)
    return row


def refused(row: Row, problem: str) -> Row:
    """`row` as a bad one, without its content."""
    return Row(row.file, row.line, problem=problem, position=row.position)


def windows(rows: Iterator[Row], cutter: WindowCutter) -> Iterator[Window]:
    """Cut `rows` into windows. Bad rows count as well, so that no window grows without end."""
    window = Window()
    for found in rows:
        row = found if is_plain(found.text) and not found.problem else judged(found)
        (window.bad if row.problem else window.rows).append(row)
        window.num_read += 1
        window.position = row.position
        if cutter.ends_with(0 if row.problem else len(row.text)):
            yield window
            window = Window()
    if window.num_read:
        yield window
