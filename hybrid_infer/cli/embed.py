"""``hybrid-infer embed``: a text a line in, a vector a line out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from hybrid_infer.cli import options, output, vectors

if TYPE_CHECKING:
    from hybrid_infer import Embeddings, HybridClient

WINDOW_TEXTS = 256


def embed(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT", help="A text file, one text a line; '-' or nothing reads stdin."
        ),
    ] = None,
    model: options.ModelOption = "default",
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .npy (float32) or .jsonl file, not stdout."
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Unit length, or the raw pooling.")
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
    tally = Tally()
    with ExitStack() as stack:
        lines = stack.enter_context(_open_lines(source))
        sink = stack.enter_context(vectors.committed(_sink(output_file, as_json=as_json)))
        client = stack.enter_context(
            options.open_client(
                policy=policy,
                profile=profile,
                models=models,
                base_url=base_url,
                deadline=deadline,
                device=device,
                dtype=dtype,
                strict=strict,
            )
        )
        call = {"model": model, "normalize": normalize, "route": route}
        advance = stack.enter_context(_progress(source, hidden=quiet or as_json))
        for result in _windows(client, lines, call):
            sink.write(result.vectors)
            tally.add(result)
            advance(len(result))
    if as_json:
        held = vectors.rows(sink.stacked()) if isinstance(sink, vectors.Held) else None
        output.print_json(tally.summary() | ({"vectors": held} if held is not None else {}))
    elif not quiet:
        output.terminal().print(tally.line(), style="dim")


def _sink(path: Path | None, *, as_json: bool) -> vectors.Sink:
    if path is None:
        return vectors.Held() if as_json else vectors.StandardOutput()
    if path.suffix not in vectors.FORMATS:
        raise output.UsageFault(f"--output {path}: the name must end in .npy or .jsonl")
    return vectors.VectorFile(path)


@contextmanager
def _open_lines(source: str | None) -> Iterator[IO[str]]:
    if source is None or source == "-":
        if source is None and sys.stdin.isatty():
            raise output.UsageFault(
                "no input: name a file, or pipe texts: echo text | hybrid-infer embed -"
            )
        yield sys.stdin
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(source).open(encoding="utf-8"))
        except OSError as error:
            raise output.UsageFault(
                f"{source}: {error.strerror}; "
                "to embed a text itself: echo text | hybrid-infer embed -"
            ) from error
        yield stream


def _windows(client: HybridClient, lines: IO[str], call: dict[str, Any]) -> Iterator[Embeddings]:
    """Embed `lines` window by window; an empty input is one empty window, which has a dim."""
    texts = _read_window(lines)
    while True:
        yield client.embed(texts, **call)
        texts = _read_window(lines)
        if not texts:
            return


def _read_window(lines: IO[str]) -> list[str]:
    try:
        return [line.rstrip("\r\n") for line in islice(lines, WINDOW_TEXTS)]
    except UnicodeDecodeError as error:
        raise output.UsageFault(f"the input is not UTF-8 text: {error}") from error


@contextmanager
def _progress(source: str | None, *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """A bar with a rate on stderr while a file is embedded, where stderr is a terminal."""
    if hidden or source in (None, "-") or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich import progress

    with Path(str(source)).open("rb") as stream:
        total = sum(1 for _ in stream)
    bar = progress.Progress(
        progress.TextColumn("embedding"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]:.0f} texts/s"),
        progress.TimeRemainingColumn(),
        console=output.terminal(),
        transient=True,
    )
    with bar:
        task = bar.add_task("embedding", total=total, rate=0.0)

        def advance(count: int) -> None:
            bar.advance(task, count)
            seconds = bar.tasks[task].elapsed or 1e-9
            bar.update(task, rate=bar.tasks[task].completed / seconds)

        yield advance


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
