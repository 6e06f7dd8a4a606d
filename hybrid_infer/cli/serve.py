"""``hybrid-infer serve``: one client behind an HTTP server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hybrid_infer.cli import options, output

LISTENS = "Where it listens"


def serve(
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on.", rich_help_panel=LISTENS)
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="0 picks a free one.", rich_help_panel=LISTENS),
    ] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="HYBRID_INFER_SERVER_KEY",
            help="What clients must send. Better set by the variable: every user of this machine "
            "sees the words of a command line.",
            rich_help_panel=LISTENS,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which clients reach this server, such as a proxy's; repeatable.",
            rich_help_panel=LISTENS,
        ),
    ] = None,
    accept_token_ids: Annotated[
        bool,
        typer.Option(
            "--accept-token-ids",
            help="Embed token ids that the model's own tokenizer has made; others are refused.",
            rich_help_panel=LISTENS,
        ),
    ] = False,
    profile: options.ProfileOption = None,
    policy: options.PolicyOption = None,
    models: options.ModelsOption = None,
    base_url: options.BaseUrlOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    strict: options.StrictOption = False,
) -> None:
    """Serve OpenAI's, Hugging Face's and TEI's paths until Ctrl-C or SIGTERM."""
    from hybrid_infer.server.options import server_options

    listening = server_options(
        host, port, api_key, allowed_host or (), accepts_token_ids=accept_token_ids
    )
    arguments = {
        "profile": profile, "policy": policy, "models": models, "base_url": base_url,
        "device": device, "dtype": dtype,
    }  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
    if strict:
        given |= options.strict_settings(given)
    try:
        from hybrid_infer.server import lifecycle
        from hybrid_infer.server.running import run
    except ImportError as error:
        raise output.NotInstalled(
            f'the server needs {error.name}: pip install "hybrid-infer[server]"'
        ) from error
    try:
        opened = lifecycle.listening_socket(listening)
    except OSError as error:
        raise output.UsageFault(f"cannot listen on {host}:{port}: {error.strerror}") from error
    with opened:
        run(listening, opened, given, _announce)


def _announce(url: str) -> None:
    output.announce(f"hybrid-infer serves on {url}  (Ctrl-C stops it)")
