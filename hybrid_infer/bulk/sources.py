"""What is read: files, globs or standard input, row by row."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hybrid_infer.bulk import arrow
from hybrid_infer.bulk.rows import EMBEDDING, Row
from hybrid_infer.errors import BulkDataError

FORMATS = ("txt", "jsonl", "csv", "parquet")
HEAD_BYTES = 1 << 16
MOST_FIELD_CHARACTERS = 1 << 26  # of CSV: what a quote that nobody closes may take into memory
_SUFFIXES = {
    ".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv",
    ".parquet": "parquet",
}  # fmt: skip
_Lines = Iterator[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Source:
    """An input.

    Attributes:
        files: the files in order; empty for a stream.
        stream: standard input, in bytes; None for files.
        format: one of `FORMATS`.
        column: where the text is.
        total: size of all files, in bytes or, of Parquet, in rows; None for a stream.
    """

    files: tuple[Path, ...]
    stream: IO[bytes] | None
    format: str
    column: str
    total: int | None

    def rows(self) -> Iterator[Row]:
        """All rows in order, those that cannot be read included."""
        if self.stream is not None:
            yield from _READERS[self.format]("stdin", _positioned(self.stream, 0), self.column)
            return
        start = 0
        for path in self.files:
            if self.format == "parquet":
                yield from arrow.read_rows(path, self.column, start)
                start += arrow.num_rows(path)
                continue
            with _opened(path) as stream:
                lines = _positioned(stream, start)
                yield from _READERS[self.format](path.name, lines, self.column)
                start += stream.tell()

    def identity(self) -> list[dict[str, Any]] | None:
        """What tells these files from others: name, size, time of change, hash of the beginning.

        None: of a stream, which nobody can read again.
        """
        return None if self.stream is not None else [_identity_of(path) for path in self.files]

    def reads(self, path: Path) -> bool:
        """Whether a file is one of these."""
        return path.exists() and any(map(path.samefile, self.files))


def open_source(
    name: str,
    *,
    column: str = "text",
    kind: str | None = None,
    stream: IO[bytes] | None = None,
) -> Source:
    """The input that `name` stands for.

    Args:
        name: a file, a pattern of files such as ``data/*.jsonl``, or ``-``.
        column: where the text is.
        kind: one of `FORMATS`; None: by the files' suffix, of a stream ``txt``.
        stream: what is read instead of files; its name is then ``-``.

    Raises:
        BulkDataError: no such file, an unknown format, or formats that are mixed.
        MissingExtraError: Parquet, and pyarrow is not installed.
    """
    if kind not in (None, *FORMATS):
        raise BulkDataError(f"format {kind!r} is none of {', '.join(FORMATS)}")
    if stream is not None:
        if kind == "parquet":
            raise BulkDataError("Parquet has its index at the end: it is read from files only")
        return Source((), stream, kind or "txt", column, None)
    files = _files(name)
    formats = {kind or _format_of(path) for path in files}
    if len(formats) > 1:
        raise BulkDataError(
            f"{name} matches files of several formats: {', '.join(sorted(formats))}"
        )
    (chosen,) = formats
    if chosen == "parquet":
        arrow.check_installed()
        total = sum(arrow.num_rows(path) for path in files)
    else:
        total = sum(map(_size_of, files))
    return Source(files, None, chosen, column, total)


def _files(name: str) -> tuple[Path, ...]:
    # Of os.path, for which a name that no file can have is one of none.
    if os.path.isfile(name):  # noqa: PTH113
        return (Path(name),)
    if os.path.isdir(name):  # noqa: PTH112
        raise BulkDataError(f"{name} is a directory; name its files: '{name}/*.jsonl'")
    found = tuple(Path(path) for path in sorted(glob.glob(name, recursive=True)))  # noqa: PTH207 - a pattern with its folder
    files = tuple(path for path in found if path.is_file())
    if not files:
        raise BulkDataError(
            f"{name}: there is no such file; to embed a text itself: "
            "echo text | hybrid-infer embed -"
        )
    return files


def _format_of(path: Path) -> str:
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise BulkDataError(
            f"{path}: its suffix is none of {', '.join(_SUFFIXES)}; say --format "
            f"{'|'.join(FORMATS)}"
        )
    return found


def _identity_of(path: Path) -> dict[str, Any]:
    with _opened(path) as stream:
        about = os.fstat(stream.fileno())
        head = hashlib.sha256(stream.read(HEAD_BYTES)).hexdigest()
    return {
        "path": str(path.resolve()), "size": about.st_size, "mtime_ns": about.st_mtime_ns,
        "head_sha256": head,
    }  # fmt: skip


def _size_of(path: Path) -> int:
    with _opened(path) as stream:
        return os.fstat(stream.fileno()).st_size


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise BulkDataError(f"{path}: {error.strerror}") from error


def _positioned(stream: IO[bytes], start: int) -> _Lines:
    for line in stream:
        start += len(line)
        yield line, start


def _text_rows(file: str, lines: _Lines, column: str) -> Iterator[Row]:
    for number, (line, position) in enumerate(lines, 1):
        try:
            text = line.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield Row(file, number, problem=f"not UTF-8: {error}", position=position)
            continue
        yield Row(file, number, text, {column: text}, position=position)


def _json_rows(file: str, lines: _Lines, column: str) -> Iterator[Row]:
    for number, (line, position) in enumerate(lines, 1):
        if not line.strip():
            continue  # as at the end of many a file
        try:
            record = _JSON.decode(line.decode(json.detect_encoding(line)))
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            yield Row(file, number, problem=f"not JSON: {error}", position=position)
            continue
        problem = _problem_of(record, column)
        text = None if problem else record[column]
        yield Row(file, number, text, record, problem, position)


def _finite(text: str) -> float:
    """A number of JSON, which holds no other: what is read here is written again."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a number that JSON can hold")
    return value


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _problem_of(record: Any, column: str) -> str:
    if not isinstance(record, dict):
        return f"not a JSON object but {type(record).__name__}"
    if EMBEDDING in record:
        return f"it has a column {EMBEDDING!r} already"
    return "" if column in record else f"no column {column!r}"


def _csv_rows(file: str, lines: _Lines, column: str) -> Iterator[Row]:
    position = 0

    def decoded() -> Iterator[str]:
        nonlocal position
        for line, end in lines:
            position = end
            # What is not UTF-8 becomes lone surrogates, which make their row a bad one.
            yield line.decode("utf-8", "surrogateescape")

    # It has but one limit, for all who read.
    csv.field_size_limit(max(MOST_FIELD_CHARACTERS, csv.field_size_limit()))
    reader = csv.reader(decoded(), strict=True)
    header = _csv_header(file, reader, column)
    while True:
        begins = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > begins:  # what is a row of its own below, and what is in quotes?
                raise BulkDataError(
                    f"{file}:{begins}: not CSV, down to line {reader.line_num}: {error}"
                ) from error
            yield Row(file, reader.line_num, problem=f"not CSV: {error}", position=position)
            continue
        if not fields:
            continue  # a blank line
        problem = ""
        if len(fields) != len(header):
            problem = f"{len(fields)} fields, not {len(header)}"
        elif not _are_unicode(fields):
            problem = "not UTF-8"
        record: Mapping[str, str] = {} if problem else dict(zip(header, fields, strict=True))
        yield Row(file, reader.line_num, record.get(column), record, problem, position)


def _are_unicode(values: list[str]) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for value in values for letter in value)


def _csv_header(file: str, reader: Iterator[list[str]], column: str) -> list[str]:
    try:
        header = [name.removeprefix("\ufeff") for name in next(reader, [])]
    except csv.Error as error:
        raise BulkDataError(f"{file}: its first line is not CSV: {error}") from error
    if not _are_unicode(header):
        raise BulkDataError(f"{file}: its first line is not UTF-8")
    if column not in header or EMBEDDING in header or len(set(header)) < len(header):
        names = ", ".join(header) or "nothing"
        raise BulkDataError(
            f"{file}: its first line must name each column once, {column!r} among them and "
            f"{EMBEDDING!r} not; it has {names}"
        )
    return header


_READERS: dict[str, Callable[[str, _Lines, str], Iterator[Row]]] = {
    "txt": _text_rows,
    "jsonl": _json_rows,
    "csv": _csv_rows,
}
