"""``hybrid-infer fake-remote``: a remote of one's own, that fails as a scenario says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_infer.cli import output

if TYPE_CHECKING:
    from hybrid_infer.testing import FakeRemote, ReceivedRequest

USAGE = """\
a fake remote listens on {url}

  export HYBRID_INFER_PROFILE=tiny
  hybrid-infer chat "hello" --base-url {url}

  client = HybridClient(profile="tiny", base_url="{url}")

Ctrl-C ends it; a line for each request follows."""


def fake_remote(
    scenario: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A scenario.yaml: what to answer, request by request."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 0,
    answers: Annotated[
        Literal["tiny", "echo"],
        typer.Option(help="tiny: the tiny models' own answers. echo: instant, made up."),
    ] = "tiny",
) -> None:
    """Run a loopback server that speaks like Hugging Face's, until Ctrl-C."""
    from hybrid_infer.testing import load_scenario
    from hybrid_infer.testing.server import serve

    script = None if scenario is None else load_scenario(scenario)
    try:
        serve(script, port, answers, on_ready=_announce, on_request=_log)
    except OSError as error:
        raise output.UsageFault(f"cannot listen on port {port}: {error.strerror}") from error


def _announce(remote: FakeRemote) -> None:
    output.announce(USAGE.format(url=remote.url))


def _log(request: ReceivedRequest) -> None:
    model = request.body_json.get("model") if isinstance(request.body_json, dict) else None
    about = f" model={model}" if model else ""
    output.announce(f"{request.method} {request.path} {len(request.body)} bytes{about}")
