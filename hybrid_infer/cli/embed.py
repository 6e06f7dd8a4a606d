"""``hybrid-infer embed``: a text a line in, a vector a line out."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from hybrid_infer.cli import options, output, vectors
from hybrid_infer.cli.embedding_files import Files, embed_files, summary_line

if TYPE_CHECKING:
    from hybrid_infer import Embeddings, HybridClient
    from hybrid_infer.bulk import BulkOptions

WINDOW_TEXTS = 256
FILES = "Files"


class InputFormat(StrEnum):
    """What an input is read as."""

    TXT = "txt"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class OnError(StrEnum):
    """What a bad row does."""

    FAIL = "fail"
    SKIP = "skip"


def embed(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="A file or a quoted pattern of files: text (one a line), .jsonl, .csv, .parquet; "
            "'-' or nothing reads stdin.",
        ),
    ] = None,
    model: options.ModelOption = "default",
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A .parquet, .jsonl or .npy file, not stdout; a run that was cut short goes on.",
        ),
    ] = None,
    column: Annotated[
        str,
        typer.Option(metavar="NAME", help="The column with the text.", rich_help_panel=FILES),
    ] = "text",
    input_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="txt, jsonl, csv or parquet, whatever the input's name says.",
            rich_help_panel=FILES,
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            metavar="ACTION",
            help="A bad row: fail, or skip: it is listed in FILE.errors.jsonl and left out.",
            rich_help_panel=FILES,
        ),
    ] = OnError.FAIL,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Throw away what an earlier run has done.", rich_help_panel=FILES
        ),
    ] = False,
    window: Annotated[
        int,
        typer.Option(
            metavar="TEXTS",
            min=1,
            max=1_000_000,
            help="Texts of one call and one checkpoint at most.",
            rich_help_panel=FILES,
        ),
    ] = 8192,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Unit length, or the raw pooling.")
    ] = True,
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate/--no-truncate", help="Over-long texts are cut, or are an error or bad rows."
        ),
    ] = True,
    quiet: options.QuietOption = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object: space, usage, who served, and the vectors."),
    ] = False,
    policy: options.PolicyOption = None,
    route: options.RouteOption = None,
    deadline: options.DeadlineOption = None,
    profile: options.ProfileOption = None,
    models: options.ModelsOption = None,
    base_url: options.BaseUrlOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    strict: options.StrictOption = False,
) -> None:
    """Turn texts into vectors: JSON lines on stdout, or a file."""
    where = {"policy": policy, "profile": profile, "models": models, "base_url": base_url}
    call: dict[str, Any] = {
        "model": model,
        "normalize": normalize,
        "truncate": truncate,
        "route": route,
    }
    _check_typed(source)
    files = Files(source or "-", output_file, column, input_format, restart)

    def open_client() -> HybridClient:
        return options.open_client(
            **where, deadline=deadline, device=device, dtype=dtype, strict=strict
        )

    if not files.is_bulk:
        _embed_lines(files.source, open_client, call, quiet=quiet, as_json=as_json)
        return
    from hybrid_infer.bulk import BulkOptions

    bulk = BulkOptions(**call, on_error=on_error.value, window_texts=window)
    _embed_files(files, open_client, bulk, quiet=quiet, as_json=as_json)


def _check_typed(source: str | None) -> None:
    if source is None and sys.stdin.isatty():
        raise output.UsageFault(
            "no input: name a file, or pipe texts: echo text | hybrid-infer embed -"
        )


def _embed_files(
    files: Files,
    open_client: Callable[[], HybridClient],
    bulk: BulkOptions,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    source = files.open()  # first: of a file that is not there nothing else is worth saying
    if as_json and files.output is None:
        raise output.UsageFault("--json is one value on stdout: such an input needs --output")
    with open_client() as client:
        summary = embed_files(client, source, files, bulk, hidden=quiet or as_json)
    if as_json:
        output.print_json(dataclasses.asdict(summary))
    elif not quiet:
        output.terminal().print(summary_line(summary), style="dim")


def _embed_lines(
    source: str,
    open_client: Callable[[], HybridClient],
    call: dict[str, Any],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    tally = Tally()
    sink: vectors.Sink = vectors.Held() if as_json else vectors.StandardOutput()
    with ExitStack() as stack:
        lines = stack.enter_context(_open_lines(source))
        client = stack.enter_context(open_client())
        for result in _windows(client, lines, call):
            sink.write(result.vectors)
            tally.add(result)
    if isinstance(sink, vectors.Held):
        output.print_json(tally.summary() | {"vectors": sink.rows()})
    elif not quiet:
        output.terminal().print(tally.line(), style="dim")


@contextmanager
def _open_lines(source: str) -> Iterator[Iterator[str]]:
    if source == "-":
        yield _lines(sys.stdin.buffer)
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise output.UsageFault(f"{source}: {error.strerror}") from error
        yield _lines(stream)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """UTF-8, whatever the locale says, and ended by newlines alone: as in files with ``--output``."""
    encoding = "utf-8-sig"  # the first line only
    for line in stream:
        try:
            yield line.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise output.UsageFault(f"the input is not UTF-8 text: {error}") from error
        encoding = "utf-8"


def _windows(
    client: HybridClient, lines: Iterator[str], call: dict[str, Any]
) -> Iterator[Embeddings]:
    """Embed `lines` window by window; an empty input is one empty window, which has a dim."""
    texts = list(islice(lines, WINDOW_TEXTS))
    while True:
        yield client.embed(texts, **call)
        texts = list(islice(lines, WINDOW_TEXTS))
        if not texts:
            return


class Tally:
    """What a run cost and who served it."""

    def __init__(self) -> None:
        self.texts = 0
        self.prompt_tokens: int | None = 0
        self.truncations: int | None = 0
        self.served: Counter[str] = Counter()
        self.last: Embeddings | None = None

    def add(self, result: Embeddings) -> None:
        """Count one window."""
        self.texts += len(result)
        self.prompt_tokens = _sum(self.prompt_tokens, result.usage.prompt_tokens)
        self.truncations = _sum(self.truncations, result.usage.truncations)
        self.served[result.route.provider or result.route.backend] += len(result)
        self.last = result

    def summary(self) -> dict[str, Any]:
        """Everything for programs."""
        return {
            "texts": self.texts,
            "prompt_tokens": self.prompt_tokens,
            "truncations": self.truncations,
            "served": dict(self.served),
            "space": self.last.space if self.last else None,
            "route": self.last.route if self.last else None,
        }

    def line(self) -> str:
        """One line for people."""
        cut = f" · {self.truncations} cut at the model's limit" if self.truncations else ""
        if len(self.served) == 1 and self.last is not None:
            return f"{self.texts} texts{cut} · {output.route_line(self.last.route)}"
        served = ", ".join(f"{name} ({count})" for name, count in self.served.items())
        return f"{self.texts} texts{cut} · served by {served}"


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
