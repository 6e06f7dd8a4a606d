"""Embeds an input into a file, resumably, or onto a stream."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hybrid_infer.bulk import outputs, pipeline
from hybrid_infer.bulk.checkpoint import Checkpoint, sync
from hybrid_infer.bulk.options import BulkOptions
from hybrid_infer.bulk.rows import Row, Window, refused, windows
from hybrid_infer.bulk.sources import Source
from hybrid_infer.bulk.summary import BulkSummary, Tally, row_groups
from hybrid_infer.client.switching import Switching
from hybrid_infer.client.windows import WindowedEmbedder
from hybrid_infer.datatypes.embeddings import Embeddings
from hybrid_infer.errors import (
    BulkDataError,
    CheckpointError,
    ContextLengthError,
    HybridInferError,
)

if TYPE_CHECKING:
    from hybrid_infer.client.sync import HybridClient

Progress = Callable[[int, int], None]
_INDEX = re.compile(r"texts\[(\d+)\]")
_Done = tuple[Window, Embeddings | None]


def embed_to_file(
    client: HybridClient,
    source: Source,
    output: Path,
    options: BulkOptions,
    *,
    restart: bool = False,
    on_progress: Progress = lambda _texts, _position: None,
) -> BulkSummary:
    """Embed every row of `source` into `output`, going on where an earlier run has ended.

    Args:
        client: who embeds.
        source: what is read.
        output: a ``.parquet``, ``.jsonl`` or ``.npy`` file; it appears when it is complete.
        options: how.
        restart: whether what an earlier run has done is thrown away.
        on_progress: called after each window with the texts done by this run, and how far into
            the source they reach.

    Raises:
        BulkDataError: the source cannot be read, a row is bad, or the output cannot be written, or is
            read from.
        CheckpointError: an earlier run had another input or other options.
        MissingExtraError: Parquet, and pyarrow is not installed.
        HybridInferError: as ``embed``; what is done stays for the next run.
    """
    kind = outputs.format_of(output, has_columns=source.format != "txt")
    if os.path.exists(output) and not output.is_file():  # noqa: PTH110 - whatever its name
        raise BulkDataError(f"{output} is no file that can be replaced")
    for path in (output, _errors_of(output)):
        if source.reads(path):
            raise BulkDataError(f"{path} is read here: what is made of it cannot take its place")
    empty = client.embed([], options.model, options.normalize)
    identity = _identity(source, options, empty)
    with _explained(output):
        checkpoint = Checkpoint(output, identity, restart=restart)
    try:
        job = _FileJob(client, source, output, options, kind, checkpoint, on_progress)
        summary = job.run(empty.space.dim, identity["input"])
    except BaseException as error:
        if source.stream is not None or not checkpoint.windows:
            checkpoint.remove()
        elif isinstance(error, HybridInferError):
            error.add_note(f"{len(checkpoint.windows)} windows are kept: the same command goes on")
        raise
    finally:
        checkpoint.close()
    return summary


def embed_to_stream(
    client: HybridClient, source: Source, stream: IO[str], options: BulkOptions
) -> BulkSummary:
    """Embed every row of `source` onto `stream` as JSON lines; arguments as `embed_to_file`."""
    tally, started_at = Tally(), time.monotonic()
    computing = _Computing(client, options)
    has_columns = source.format != "txt"

    def write(done: _Done) -> None:
        window, result = done
        if result is not None:
            lines = outputs.json_lines(window.rows, result.vectors, has_columns=has_columns)
            stream.write(lines.decode())
            stream.flush()
        tally.add(_entry(window, result))

    cut = windows(source.rows(), options.cutter())
    compute_seconds = pipeline.run(cut, computing, write)
    seconds = time.monotonic() - started_at
    return replace(tally.summary(0), seconds=seconds, compute_seconds=compute_seconds)


class _Computing:
    """Embeds windows; rows that are too long become bad ones."""

    def __init__(
        self, client: HybridClient, options: BulkOptions, served_by: str | None = None
    ) -> None:
        status = client.status()
        switching = Switching(status["policy"], status["remotes"], options.route, served_by)
        self._on_error = options.on_error
        self._embedder = WindowedEmbedder(
            client, options.model, switching,
            normalize=options.normalize, truncate=options.truncate, deadline=options.deadline,
        )  # fmt: skip

    def __call__(self, window: Window) -> _Done:
        for row in window.bad:
            self._judge(row)
        while window.rows:
            try:
                return window, self._embedder.embed(window.texts)
            except ContextLengthError as error:
                found = _INDEX.fullmatch(error.argument or "")
                if found is None:
                    raise
                row = refused(window.rows.pop(int(found[1])), error.message)
                self._judge(row)
                window.bad.append(row)
        return window, None

    def _judge(self, row: Row) -> None:
        if self._on_error == "fail":
            raise BulkDataError(
                f"{row.file}:{row.line}: {row.problem}; --on-error skip leaves such rows out"
            )


class _FileJob:
    def __init__(
        self,
        client: HybridClient,
        source: Source,
        output: Path,
        options: BulkOptions,
        kind: outputs.Format,
        checkpoint: Checkpoint,
        on_progress: Progress,
    ) -> None:
        self._source, self._output, self._options = source, output, options
        self._kind, self._checkpoint, self._on_progress = kind, checkpoint, on_progress
        self._tally, self._texts_now = Tally(), 0
        for window in checkpoint.windows:
            kind.recall(window)
            self._tally.add(window)
        self._last = self._tally.last
        served_by = None if self._last is None else self._last["served_by"]
        self._computing = _Computing(client, options, served_by)

    def run(self, dim: int, identity: Any) -> BulkSummary:
        """Do what is left, and merge; `identity`: of the input when the run began."""
        started_at, resumed = time.monotonic(), len(self._checkpoint.windows)
        rows = self._source.rows()
        num_done = sum(window["read"] for window in self._checkpoint.windows)
        deque(islice(rows, num_done), maxlen=0)
        cut = windows(rows, self._options.cutter())
        compute_seconds = pipeline.run(cut, self._computing, self._write)
        if self._source.identity() != identity:
            raise CheckpointError(f"the input of {self._output} was changed while it was read")
        with _explained(self._output):
            errors = self._merge(dim if self._last is None else self._last["space"]["dim"])
            self._checkpoint.remove()
        return replace(
            self._tally.summary(resumed),
            output=self._output,
            errors=errors,
            seconds=time.monotonic() - started_at,
            compute_seconds=compute_seconds,
        )

    def _write(self, done: _Done) -> None:
        window, result = done
        entry = _entry(window, result)
        self._check_space(entry)
        index, parts = len(self._checkpoint.windows), []
        with _explained(self._output):
            if result is not None:
                parts.append(self._checkpoint.part(index, self._kind.suffix))
                entry |= self._kind.write_part(parts[-1], window.rows, result.vectors)
            if window.bad:
                parts.append(self._checkpoint.part(index, ".bad"))
                parts[-1].write_text("".join(map(_bad_line, window.bad)), encoding="utf-8")
            self._checkpoint.add(entry, parts)
        self._tally.add(entry)
        self._texts_now += len(window.rows)
        self._on_progress(self._texts_now, window.position)

    def _check_space(self, entry: Mapping[str, Any]) -> None:
        """A run that goes on must compute what the earlier one did."""
        if entry["space"] is None:
            return
        last, self._last = self._last, entry
        if last is None:
            return
        same = ["space"]
        if last["served_by"] == entry["served_by"]:
            same += ["dtype", "quantization"]
        if last["revision"] and entry["revision"]:  # of an alias without a pin the space has none
            same.append("revision")
        if wrong := [name for name in same if last[name] != entry[name]]:
            raise CheckpointError(
                f"{self._output} was begun with different {' and '.join(wrong)}: "
                f"{last[wrong[0]]}, not {entry[wrong[0]]}; --restart starts over"
            )

    def _merge(self, dim: int) -> Path | None:
        """Make the output of the parts, with one rename; the file of bad rows goes first."""
        done, part = self._checkpoint.windows, self._checkpoint.part
        good = [part(i, self._kind.suffix) for i, window in enumerate(done) if window["rows"]]
        bad = [part(i, ".bad") for i, window in enumerate(done) if window["bad"]]
        errors = _errors_of(self._output)
        merged = self._checkpoint.folder / "merged"
        if bad:
            with merged.open("wb") as stream:
                outputs.join(stream, bad)
            sync(merged)
            merged.replace(errors)
        else:
            errors.unlink(missing_ok=True)  # of an earlier input
        last = self._tally.last
        about = {"space": None if last is None else last["space"], "row_groups": row_groups(done)}
        self._kind.merge(merged, good, (self._tally.texts, dim), about)
        sync(merged)
        merged.replace(self._output)
        sync(self._output.parent)
        return errors if bad else None


def _entry(window: Window, result: Embeddings | None) -> dict[str, Any]:
    """A window's line in the journal."""
    entry: dict[str, Any] = {
        "read": window.num_read, "rows": len(window.rows), "bad": len(window.bad), "space": None,
    }  # fmt: skip
    if result is None:
        return entry
    route, usage = result.route, result.usage
    return entry | {
        "space": asdict(result.space),
        "served_by": route.provider or "local",
        "reason": str(route.reason),
        "verified": route.verified,
        "revision": route.revision,
        "dtype": route.dtype,
        "quantization": route.quantization,
        "prompt_tokens": usage.prompt_tokens,
        "truncations": usage.truncations,
    }


def _identity(source: Source, options: BulkOptions, empty: Embeddings) -> dict[str, Any]:
    """What the windows of a run depend on. A bad row's fate is not among it: none was passed over."""
    kept = ("model", "normalize", "truncate", "window_texts", "window_characters")
    return {
        "input": source.identity(),
        "options": {name: getattr(options, name) for name in kept}
        | {"column": source.column, "format": source.format},
        "model": {"repo": empty.space.repo, "revision": empty.space.revision},
    }


def _errors_of(output: Path) -> Path:
    """The file of bad rows."""
    return output.with_name(f"{output.name}.errors.jsonl")


def _bad_line(row: Row) -> str:
    return json.dumps({"file": row.file, "line": row.line, "error": row.problem}) + "\n"


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BulkDataError(f"cannot write {output}: {error.strerror}") from error
