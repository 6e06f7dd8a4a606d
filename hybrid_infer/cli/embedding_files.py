"""``hybrid-infer embed`` with a file to write, or rows with columns to read: resumable bulk work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli import output, streams

if TYPE_CHECKING:
    from hybrid_infer import HybridClient
    from hybrid_infer.bulk import BulkOptions, BulkSummary, Source


@dataclass(frozen=True, slots=True)
class Files:
    """Where rows are read and vectors written.

    Attributes:
        source: a file, a pattern, or ``-``.
        output: the file to write; None for stdout.
        column: where the text is.
        kind: the input's format; None: by its suffix.
        restart: whether an earlier run's work is thrown away.
    """

    source: str
    output: Path | None
    column: str
    kind: str | None
    restart: bool

    @property
    def is_bulk(self) -> bool:
        """Whether they need more than a text a line in and a vector a line out."""
        is_plain = self.source == "-" or (self._is_file and not self._has_columns)
        return self.output is not None or self.kind not in (None, "txt") or not is_plain

    def open(self) -> Source:
        """The input, found and looked at.

        Raises:
            BulkDataError: it cannot be used.
        """
        from hybrid_infer.bulk import open_source

        stream = streams.input_bytes() if self.source == "-" else None
        # A file of another suffix, or none, is read as text, as it is without --output.
        kind = "txt" if self._is_file and not self._has_columns else None
        return open_source(self.source, column=self.column, kind=self.kind or kind, stream=stream)

    @property
    def _is_file(self) -> bool:
        """Whether it is one, and no pattern; a name that no file can have is none."""
        return os.path.exists(self.source) and not os.path.isdir(self.source)  # noqa: PTH110, PTH112

    @property
    def _has_columns(self) -> bool:
        return Path(self.source).suffix.lower() in _WITH_COLUMNS


_WITH_COLUMNS = (".jsonl", ".ndjson", ".csv", ".parquet")


def embed_files(
    client: HybridClient, source: Source, files: Files, options: BulkOptions, *, hidden: bool
) -> BulkSummary:
    """Embed `source`; `hidden`: without a progress bar."""
    from hybrid_infer.bulk import embed_to_file, embed_to_stream

    if files.output is None:
        if options.on_error == "skip":
            raise output.UsageFault("--on-error skip lists bad rows beside --output: give one")
        return embed_to_stream(client, source, sys.stdout, options)
    with _progress(source.total, hidden=hidden) as on_progress:
        return embed_to_file(
            client, source, files.output, options, restart=files.restart, on_progress=on_progress
        )


def summary_line(summary: BulkSummary) -> str:
    """One line for people."""
    parts = [f"{summary.texts} texts"]
    if summary.prompt_tokens:
        parts.append(f"{summary.prompt_tokens} tokens")
    if summary.truncations:
        parts.append(f"{summary.truncations} cut at the model's limit")
    if summary.bad_rows:
        parts.append(f"{summary.bad_rows} bad rows listed in {summary.errors}")
    if summary.resumed_windows:
        parts.append(f"{summary.resumed_windows} windows were done before")
    if summary.served:
        served = ", ".join(
            f"{name} ({count} in {summary.windows[name]} windows)"
            for name, count in summary.served.items()
        )
        parts.append(f"served by {served}")
    parts.append(f"{summary.seconds:.1f} s")
    return " · ".join(parts)


@contextmanager
def _progress(total: int | None, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left on stderr, where stderr is a terminal."""
    if hidden or not sys.stderr.isatty():
        yield lambda _texts, _position: None
        return
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("embedding"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[texts]} texts, {task.fields[rate]:.0f} texts/s"),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=output.terminal(),
        transient=True,
    )
    with bar:
        task: Any = bar.add_task("embedding", total=total, texts=0, rate=0.0)

        def advance(texts: int, position: int) -> None:
            seconds = bar.tasks[task].elapsed or 1e-9
            bar.update(task, completed=position, texts=texts, rate=texts / seconds)

        yield advance
