"""The command line, one file a command.

Exit codes: 0 done; 1 the call was tried and failed; 2 wrong usage, request or configuration,
or nothing to verify with;
3 not available here (not downloaded, gated, offline, no API key, too little memory, a missing
extra); 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from typing import Annotated, cast

import typer

from hybrid_infer.cli import (
    bundle,
    chat,
    demo,
    doctor,
    embed,
    fake_remote,
    models,
    output,
    pull,
    serve,
    status,
    streams,
    verify,
)
from hybrid_infer.errors import HybridInferError

# What the parser raises for wrong words. Typer takes it from Click, or carries Click inside.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)

app = typer.Typer(
    name="hybrid-infer",
    help="The same model, remote or local: chat and embeddings that survive their remote.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hybrid_infer import __version__

        print(f"hybrid-infer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """The options of ``hybrid-infer`` itself."""


app.command("demo")(demo.demo)
app.command("chat")(chat.chat)
app.command("embed")(embed.embed)
app.command("models")(models.models)
app.command("pull")(pull.pull)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)
app.add_typer(bundle.app, name="bundle")
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("fake-remote")(fake_remote.fake_remote)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: the words after the program's name; None means ``sys.argv[1:]``.
    """
    words = sys.argv[1:] if arguments is None else arguments
    as_json = output.wants_json(words)
    streams.mend()
    # A program's users want the sentence, not the line of the program that it came from.
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
    try:
        sys.exit(_run(words, as_json=as_json))
    except OSError as error:
        # Typer handles a reader that left; a full disk behind stdout ends up here. What is still
        # buffered would fail once more when the interpreter ends.
        if as_json:
            with suppress(OSError):  # it is stdout that cannot be written
                output.show_error(output.SystemFault(str(error)), as_json=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        output.terminal().print(f"error: {error}", style="bold red")
        sys.exit(output.EXIT_FAILED)


def _run(words: list[str], *, as_json: bool) -> int:
    """Run one command and show what it raises; its exit code."""
    try:
        # Standing alone, Typer would explain wrong usage on stderr itself, and leave stdout empty.
        code: int | None = app(args=words, prog_name="hybrid-infer", standalone_mode=not as_json)
    except HybridInferError as error:
        output.show_error(error, as_json=as_json)
        return output.exit_code(error)
    except _UsageError as error:
        output.show_error(_usage_fault(error), as_json=True)
        return output.EXIT_USAGE
    except OSError:
        raise
    except Exception as error:  # a fault of ours: a program must find JSON; the traceback follows
        if as_json:
            output.show_error(output.OwnFault(repr(error)), as_json=True)
        raise
    return code or 0


def _usage_fault(error: typer.BadParameter) -> output.UsageFault:
    """What the parser says about wrong words, as the error of a command that refuses them."""
    fault = output.UsageFault(error.format_message())
    if error.ctx is not None:
        fault.add_note(f"`{error.ctx.command_path} -h` lists the options")
    return fault
