"""What commands print: JSON, route lines, errors with their next step, and exit codes.

Answers and data go to stdout, everything about them to stderr, so that pipes stay clean.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli import streams
from hybrid_infer.errors import (
    AllTargetsFailedError,
    APIConnectionError,
    AuthenticationError,
    BulkDataError,
    CheckpointError,
    ConfigError,
    HybridInferError,
    InsufficientMemoryError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
    UnverifiableError,
)

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid_infer.datatypes.route import Route

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3

LONGEST_DETAIL = 160


class UsageFault(ConfigError):
    """A command was given something it cannot use, such as a file that is not there."""


class SystemFault(HybridInferError):
    """The system refused something that no command expects, such as to write on."""


class OwnFault(HybridInferError):
    """Something that no command raises on purpose."""


class NotInstalled(HybridInferError):
    """Something that the command needs is not installed."""


_ABSENT = (ModelNotDownloadedError, InsufficientMemoryError, MissingExtraError, NotInstalled)
_USAGE = (BulkDataError, CheckpointError, ConfigError, InvalidRequestError, UnverifiableError)
_ABSENT_IF_UNTRIED = (AuthenticationError, ModelNotAvailableError, APIConnectionError)


def exit_code(error: HybridInferError) -> int:
    """The exit code that stands for `error`."""
    if isinstance(error, _USAGE):
        return EXIT_USAGE
    untried = isinstance(error, _ABSENT_IF_UNTRIED) and not error.attempts
    return EXIT_UNAVAILABLE if untried or isinstance(error, _ABSENT) else EXIT_FAILED


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON; words after ``--`` are data."""
    options = words[: words.index("--")] if "--" in words else words
    return "--json" in options


def terminal() -> Console:
    """A console on stderr that prints text as it is, without markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def tables() -> Console:
    """A console on stdout for tables; a pipe gets them wide enough to keep every word."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    text = json.dumps(value, ensure_ascii=False, default=_encode)
    if not streams.carries(text):  # what stdout would escape instead is no JSON
        text = json.dumps(value, default=_encode)
    print(text, flush=True)


def announce(text: str) -> None:
    """Print what a server says about itself; it serves on where nobody can read that."""
    if not streams.is_closed():
        print(text, flush=True)


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.repr
        }
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def show_error(error: HybridInferError, *, as_json: bool) -> None:
    """Print `error` and what to do next: on stderr as text, or on stdout as JSON."""
    if as_json:
        print_json({"error": describe_error(error)})
        return
    console = terminal()
    console.print(f"error: {error.message}", style="bold red")
    for line in _next_steps(error):
        console.print(f"  {line}")


def error_line(error: HybridInferError) -> str:
    """`error` and what to do next, on one line."""
    return " · ".join([f"error: {' '.join(error.message.split())}", *_next_steps(error)])


def describe_error(error: HybridInferError) -> dict[str, Any]:
    """`error` as a JSON object: type, message, next steps, argument, attempts."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "next_steps": _next_steps(error),
        "argument": getattr(error, "argument", None),
        "retry_after": error.retry_after,
        "retryable": error.retryable,
        "attempts": error.attempts,
        "exit_code": exit_code(error),
    }


def _next_steps(error: HybridInferError) -> list[str]:
    steps = list(getattr(error, "__notes__", ()))
    if isinstance(error, AllTargetsFailedError):
        steps += [f"{type(cause).__name__}: {cause.message}" for cause in error.causes]
    if error.retry_after is not None:
        steps.append(f"try again in {math.ceil(error.retry_after)} s")
    elif error.retryable:
        steps.append("the same command may work later; `hybrid-infer doctor` shows what is wrong")
    return steps


def route_line(route: Route) -> str:
    """One line that says who served a call, and why."""
    server = route.provider if route.backend == "remote" else "the local copy"
    weights = f"{route.model}@{route.revision[:7]}" if route.revision else route.model
    parts = [f"served by {server} ({weights})"]
    if route.reason != "primary":
        parts[0] += f" because {route.reason.replace('_', ' ')}"
        if route.detail:
            parts[0] += f": {shortened(route.detail)}"
    if route.quantization or route.dtype:
        parts.append(route.quantization or str(route.dtype))
    parts.append(f"{route.latency_seconds:.2f} s")
    return " · ".join(parts)


def shortened(text: str) -> str:
    """`text` on one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 1] + "…"
