"""pyarrow's border: Parquet in and out, and tables of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.bulk.rows import EMBEDDING, Row
from hybrid_infer.errors import BulkDataError, MissingExtraError

READ_ROWS = 1024
INSTALL = 'Parquet needs pyarrow: pip install "hybrid-infer[data]"'
_P = ParamSpec("_P")
_T = TypeVar("_T")


def check_installed() -> None:
    """Find out now, and not after an hour.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtraError(INSTALL) from error


@contextmanager
def _translated(what: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, OverflowError, UnicodeError) as error:
        raise BulkDataError(f"{what}: {' '.join(str(error).split())}") from error


def _explained(what: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with _translated(what):
                return function(*args, **kwargs)

        return call

    return decorate


def num_rows(path: Path) -> int:
    """Rows of a Parquet file, from its footer."""
    import pyarrow.parquet as pq

    with _translated(str(path)), pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def read_rows(path: Path, column: str, start: int = 0) -> Iterator[Row]:
    """Rows of a Parquet file, in bounded memory; their positions count rows from `start` on.

    Raises:
        BulkDataError: it is no Parquet file, or lacks the column.
    """
    import pyarrow.parquet as pq

    line, name = 0, path.name
    with _translated(str(path)), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise BulkDataError(f"{path} has no column {column!r}, but {', '.join(names)}")
        if EMBEDDING in names:
            raise BulkDataError(f"{path} has a column {EMBEDDING!r} already")
        if len(set(names)) < len(names):
            raise BulkDataError(f"{path} has two columns of one name, among {', '.join(names)}")
        for batch in file.iter_batches(READ_ROWS):
            for index, text in enumerate(batch.column(column).to_pylist()):
                line += 1
                yield Row(name, line, text, (batch, index), "", start + line)


@_explained("the columns do not make a table")
def table_of(rows: Sequence[Row]) -> Any:
    """The columns of `rows` as an Arrow table."""
    import pyarrow as pa

    if rows and isinstance(rows[0].record, tuple):
        pieces = []
        for _, group in groupby(rows, key=lambda row: id(row.record[0])):
            members = list(group)
            batch = members[0].record[0]
            pieces.append(batch.take(pa.array([row.record[1] for row in members])))
        return pa.Table.from_batches(pieces)
    names = dict.fromkeys(name for row in rows for name in row.record)
    return pa.table({name: pa.array([row.record.get(name) for row in rows]) for name in names})


def records_of(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """`rows` as plain mappings."""
    if rows and isinstance(rows[0].record, tuple):
        listed: list[Mapping[str, Any]] = table_of(rows).to_pylist()
        return listed
    return [row.record for row in rows]


@_explained("rows of one column have types that do not agree; JSONL can hold them")
def unified(schema: bytes | None, table: Any) -> bytes:
    """The schema that holds `table` and all before it, as Arrow's message."""
    import pyarrow as pa

    if schema is None:
        return bytes(table.schema.serialize())
    known = pa.ipc.read_schema(pa.py_buffer(schema))
    both = pa.unify_schemas([known, table.schema], promote_options="permissive")
    return bytes(both.serialize())


@_explained("rows of one column have types that do not agree; JSONL can hold them")
def check_fit(parts: Sequence[Path], schema: bytes, wider: bytes) -> None:
    """Refuse a schema that cannot hold what parts hold, such as integers that no float is.

    Args:
        parts: files of `write_part`.
        schema: that of all of them.
        wider: that of all of them and one more, as `unified` made it.
    """
    import pyarrow as pa

    known, wanted = (pa.ipc.read_schema(pa.py_buffer(each)) for each in (schema, wider))
    changed = pa.schema(
        [field for field in wanted if field.name in known.names and field not in known]
    )
    if not changed.names:
        return
    for part in parts:
        with pa.memory_map(str(part)) as file:
            _fitted(pa.ipc.open_stream(file).read_all(), changed)


def with_vectors(table: Any, vectors: NDArray[np.float32]) -> Any:
    """`table` and a column of vectors, float32 ``(n, dim)``: a fixed-size list."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return table.append_column(EMBEDDING, column)


@_explained("a part cannot be written")
def write_part(path: Path, table: Any) -> None:
    """Write a table as a stream of Arrow."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _encoding(schema: Any) -> dict[str, Any]:
    """How columns are stored: vectors as they are, for nothing makes them smaller and trying is slow."""
    import pyarrow.parquet as pq

    empty = BytesIO()
    pq.write_table(schema.empty_table(), empty)
    leaves = pq.ParquetFile(empty).schema
    paths = [leaves.column(index).path for index in range(len(leaves.names))]
    others = [path for path in paths if path.partition(".")[0] != EMBEDDING]
    return {
        "use_dictionary": others or False,
        "write_statistics": others or False,
        "compression": {path: "snappy" if path in others else "none" for path in paths},
    }


@_explained("the parts do not fit together")
def merge(
    target: Path, parts: Sequence[Path], schema: bytes | None, dim: int, about: Mapping[str, Any]
) -> None:
    """Join parts into one Parquet file, a row group each.

    Args:
        target: the file to write.
        parts: files of `write_part`, in order.
        schema: what `unified` made of their columns; None without parts.
        dim: length of a vector.
        about: goes into the footer under the key ``hybrid_infer``, as JSON.
    """
    import pyarrow as pa

    merged = Merged(target, schema, dim)
    for part in parts:
        with pa.memory_map(str(part)) as file:
            merged.add(pa.ipc.open_stream(file).read_all())
    merged.finish(about)


class Merged:
    """A Parquet file that parts join one by one, a row group each.

    Args:
        path: the file to write.
        schema: what `unified` made of the columns of all parts that will join; None without parts.
        dim: length of a vector.

    Attributes:
        path: of the file.
        schema: of the columns.
        num_parts: that have joined.
    """

    @_explained("Parquet cannot hold the columns; JSONL can")
    def __init__(self, path: Path, schema: bytes | None, dim: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = pa.schema([]) if schema is None else pa.ipc.read_schema(pa.py_buffer(schema))
        self._whole = columns.append(pa.field(EMBEDDING, pa.list_(pa.float32(), dim)))
        self._writer = pq.ParquetWriter(path, self._whole, **_encoding(self._whole))
        self.path, self.schema, self.num_parts = path, schema, 0

    @_explained("the parts do not fit together")
    def add(self, table: Any) -> None:
        """Let a part join."""
        import pyarrow as pa

        self._writer.write_table(_fitted(table, self._whole), row_group_size=table.num_rows)
        self.num_parts += 1
        pa.default_memory_pool().release_unused()  # or it keeps what a few parts take

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the footer, with `about` under the key ``hybrid_infer``, as JSON."""
        text = json.dumps(about, sort_keys=True)
        self._writer.add_key_value_metadata({"hybrid_infer": text})
        self._writer.close()


def _fitted(table: Any, schema: Any) -> Any:
    import pyarrow as pa

    columns = [
        table.column(field.name)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(
        [column.cast(field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
