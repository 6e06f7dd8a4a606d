"""What is written: a part for each window, and the file that they are merged into."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.bulk import arrow
from hybrid_infer.bulk.rows import EMBEDDING, Row
from hybrid_infer.errors import BulkDataError

Vectors = NDArray[np.float32]


def shortest(vectors: Vectors) -> list[list[float]]:
    """`vectors` as lists of the shortest floats that read back as the same float32."""
    return [[float(str(number)) for number in row] for row in vectors]


def json_lines(rows: Sequence[Row], vectors: Vectors, *, has_columns: bool) -> bytes:
    """A line a row: its columns and its vector, or without columns the vector alone."""
    numbers = shortest(vectors)
    if not has_columns:
        return "".join(json.dumps(row) + "\n" for row in numbers).encode()
    records = arrow.records_of(rows)
    both = zip(records, numbers, strict=True)
    return "".join(_line({**record, EMBEDDING: vector}) for record, vector in both).encode()


def _line(record: Mapping[str, Any]) -> str:
    try:
        return json.dumps(record, default=str, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_finite(record), default=str) + "\n"


def _finite(value: Any) -> Any:
    """`value` with null for each number of Parquet that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    return [_finite(own) for own in value] if isinstance(value, list) else value


class Format(Protocol):
    """How one kind of file is made.

    Attributes:
        suffix: of its parts.
    """

    suffix: str

    def write_part(self, path: Path, rows: Sequence[Row], vectors: Vectors) -> dict[str, Any]:
        """Write a window's part; what the journal has to keep of it."""

    def recall(self, window: Mapping[str, Any]) -> None:
        """Take what the journal has kept of an earlier part."""

    def merge(
        self, target: Path, parts: Sequence[Path], shape: tuple[int, int], about: Mapping[str, Any]
    ) -> None:
        """Write the whole file: vectors of `shape`, and `about` where the format has room."""


class JsonLines:
    """``.jsonl``."""

    suffix = ".jsonl"

    def __init__(self, *, has_columns: bool) -> None:
        self._has_columns = has_columns

    def write_part(self, path: Path, rows: Sequence[Row], vectors: Vectors) -> dict[str, Any]:
        """See `Format`."""
        path.write_bytes(json_lines(rows, vectors, has_columns=self._has_columns))
        return {}

    def recall(self, window: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def merge(
        self,
        target: Path,
        parts: Sequence[Path],
        shape: tuple[int, int],  # noqa: ARG002 - lines need none
        about: Mapping[str, Any],  # noqa: ARG002 - no room for it
    ) -> None:
        """See `Format`."""
        with target.open("wb") as stream:
            join(stream, parts)


class Numpy:
    """``.npy``: float32 ``(n, dim)``."""

    suffix = ".float32"

    def write_part(self, path: Path, rows: Sequence[Row], vectors: Vectors) -> dict[str, Any]:  # noqa: ARG002 - no columns
        """See `Format`."""
        path.write_bytes(np.ascontiguousarray(vectors, "<f4").tobytes())
        return {}

    def recall(self, window: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def merge(
        self,
        target: Path,
        parts: Sequence[Path],
        shape: tuple[int, int],
        about: Mapping[str, Any],  # noqa: ARG002 - no room for it
    ) -> None:
        """See `Format`."""
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with target.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            join(stream, parts)


class Parquet:
    """``.parquet``: the input's columns and ``embedding``, a row group a window.

    The whole file grows beside the parts, while the next window is computed, so that little is left to
    do at the end. It counts for nothing: a run that was killed merges the parts, and so does one whose
    columns turned out to be others than those of its first window.
    """

    suffix = ".arrow"  # which costs less to write and to read again than Parquet

    def __init__(self) -> None:
        arrow.check_installed()
        self._schema: bytes | None = None
        self._growing: arrow.Merged | None = None

    def write_part(self, path: Path, rows: Sequence[Row], vectors: Vectors) -> dict[str, Any]:
        """See `Format`."""
        table = arrow.table_of(rows)
        schema = arrow.unified(self._schema, table)
        if self._schema is not None and schema != self._schema:
            parts = sorted(path.parent.glob(f"*{self.suffix}"))
            # A kill may have left one of this name, torn.
            earlier = [part for part in parts if part.name < path.name]
            arrow.check_fit(earlier, self._schema, schema)
        table = arrow.with_vectors(table, vectors)
        arrow.write_part(path, table)
        if self._schema is None:  # the first part of all
            self._growing = arrow.Merged(path.with_name("growing"), schema, vectors.shape[1])
        if self._growing is not None and schema == self._growing.schema:
            self._growing.add(table)
        if schema == self._schema:
            return {}
        self._schema = schema
        return {"schema": base64.b64encode(schema).decode()}

    def recall(self, window: Mapping[str, Any]) -> None:
        """See `Format`."""
        if "schema" in window:
            self._schema = base64.b64decode(window["schema"])

    def merge(
        self, target: Path, parts: Sequence[Path], shape: tuple[int, int], about: Mapping[str, Any]
    ) -> None:
        """See `Format`."""
        growing = self._growing
        if growing is None or (growing.schema, growing.num_parts) != (self._schema, len(parts)):
            arrow.merge(target, parts, self._schema, shape[1], about)
            return
        growing.finish(about)
        growing.path.replace(target)


def format_of(output: Path, *, has_columns: bool) -> Format:
    """The format that a file's suffix asks for.

    Raises:
        BulkDataError: none is meant by it.
        MissingExtraError: Parquet, and pyarrow is not installed.
    """
    match output.suffix:
        case ".parquet":
            return Parquet()
        case ".jsonl":
            return JsonLines(has_columns=has_columns)
        case ".npy":
            return Numpy()
    raise BulkDataError(f"--output {output}: the name must end in .npy, .jsonl or .parquet")


def join(stream: IO[bytes], parts: Sequence[Path]) -> None:
    """Copy `parts` to `stream`, one after the other."""
    for part in parts:
        with part.open("rb") as source:
            shutil.copyfileobj(source, stream)
