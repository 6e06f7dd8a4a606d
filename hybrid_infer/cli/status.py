"""``hybrid-infer status``: what a running server does, as it does it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from hybrid_infer.cli import options, output, streams
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    HybridInferError,
    RemoteProtocolError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table

REFRESH_SECONDS = 1.0
ANSWER_SECONDS = 10.0
SHOWN_FALLBACKS = 8
LOCAL_STATES = {"warm": "in memory", "loading": "loading", "cold": "on disk", "absent": "absent"}


class NotThisServer(RemoteProtocolError):
    """What answers at the URL is not ``hybrid-infer serve``, now or later."""

    retryable = False


def status(
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = (
        "http://127.0.0.1:8080"
    ),
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="HYBRID_INFER_SERVER_KEY", help="The server's key."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show what a running server serves, from where, and why; Ctrl-C ends it."""
    documents = asked(url, api_key)
    if as_json:
        output.print_json(next(documents))
        return
    console = output.tables()
    first = next(documents)
    if once or not console.is_terminal:
        console.print(view(first))
        return
    from rich.live import Live

    with Live(view(first), console=console, auto_refresh=False, screen=True) as live:
        for document in documents:
            live.update(view(document), refresh=True)
            time.sleep(REFRESH_SECONDS)


def asked(url: str, api_key: str | None) -> Iterator[dict[str, Any]]:
    """The server's state, again and again.

    Raises:
        UsageFault: `url` is none.
        APIConnectionError: nothing answers there.
        AuthenticationError: the key is missing or wrong.
        NotThisServer: something else answers there.
        RemoteProtocolError: it answers with another error.
    """
    import httpx2

    from hybrid_infer.registry.urls import validated_base_url

    try:
        address = validated_base_url(url) + "/status"
    except ValueError as error:
        raise output.UsageFault(f"--url {error}") from None
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx2.Client(timeout=ANSWER_SECONDS, headers=headers, trust_env=False) as client:
        while True:
            try:
                answer = client.get(address)
                if answer.status_code != httpx2.codes.OK:
                    raise _refused(answer.status_code, url)
                document = answer.json()
            except httpx2.HTTPError as error:
                raise APIConnectionError(
                    f"no server answers at {url}: {str(error) or type(error).__name__}"
                ) from error
            except ValueError:
                document = None
            if not isinstance(document, dict) or "recent" not in document:
                raise _elsewhere(url)
            yield document


def _refused(status_code: int, url: str) -> HybridInferError:
    if status_code == 401:  # noqa: PLR2004 - HTTP
        return AuthenticationError(
            f"{url} asks for its key: set HYBRID_INFER_SERVER_KEY to the one it was started with"
        )
    if status_code == 404:  # noqa: PLR2004 - HTTP
        return _elsewhere(url)
    return RemoteProtocolError(f"{url} answers {status_code}", status=status_code)


def _elsewhere(url: str) -> NotThisServer:
    """Says what is wrong with a URL at which something else answers."""
    parts = urlsplit(url)
    if parts.path.strip("/"):
        return NotThisServer(
            f"{url} is not the address of a hybrid-infer server: give its root, "
            f"{parts.scheme}://{parts.netloc}"
        )
    return NotThisServer(f"what answers at {url} is not hybrid-infer serve")


def view(document: dict[str, Any]) -> RenderableType:
    """The state of a server as tables."""
    from rich.console import Group

    parts = [_summary(document), _models(document), _remotes(document), _fallbacks(document)]
    return Group(*(part for part in parts if part is not None))


def _summary(document: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    recent = document["recent"]
    median = recent["latency_p50_seconds"]
    dot = streams.mark("·")
    latency = "" if median is None else f" {dot} {median * 1e3:.0f} ms (p50)"
    return Text(
        f"hybrid_infer {document['version']} {dot} {document['policy']} {dot} "
        f"{document['requests_in_progress']} in progress {dot} "
        f"{recent['calls_per_second']:.1f} calls/s{latency} {dot} "
        f"last minute: {recent['remote_calls']} remote, {recent['local_calls']} local, "
        f"{recent['fallback_calls']} fallbacks\n",
        style="bold",
    )


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _models(document: dict[str, Any]) -> RenderableType:
    table = _table("model", "repository", "local copy", "remotes")
    for row in document["models"]:
        local = LOCAL_STATES.get(row["local"], row["local"])
        table.add_row(row["name"], row["repo"], local, ", ".join(row["remotes"]) or "none")
    table.add_row()
    return table


def _remotes(document: dict[str, Any]) -> RenderableType | None:
    if not document["remotes"]:
        return None
    table = _table("remote", "state", "closed", "because", "opens in")
    for name, remote in document["remotes"].items():
        closed = remote["closed"] or [{}]
        for entry in closed:
            seconds = entry.get("opens_in_seconds")
            table.add_row(
                name,
                remote["state"].replace("_", " "),
                entry.get("model") or entry.get("scope", ""),
                entry.get("reason", ""),
                "" if seconds is None else f"{max(0.0, seconds):.0f} s",
            )
    table.add_row()
    return table


def _fallbacks(document: dict[str, Any]) -> RenderableType | None:
    fallbacks = document["recent"]["fallbacks"][:SHOWN_FALLBACKS]
    if not fallbacks:
        return None
    table = _table("last fallbacks", "model", "from", "to", "because")
    for entry in fallbacks:
        at = time.strftime("%H:%M:%S", time.localtime(entry["at"]))
        table.add_row(at, entry["model"], entry["from"], entry["to"], entry["reason"])
    return table
