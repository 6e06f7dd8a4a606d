"""A client, its application and the event loop that serves both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from hybrid_infer.server.app import new_app
from hybrid_infer.server.lifecycle import HybridServer
from hybrid_infer.server.options import ServerOptions


def run(
    options: ServerOptions,
    listening: socket.socket,
    client_arguments: Mapping[str, Any],
    on_ready: Callable[[str], object],
) -> None:
    """Serve until a signal says otherwise.

    Args:
        options: where, and to whom.
        listening: a bound socket.
        client_arguments: of `AsyncHybridClient`.
        on_ready: called with the URL once requests are accepted.

    Raises:
        ConfigError: an argument of the client is wrong.
    """
    app = new_app(options, client_arguments)
    server = HybridServer(app, options, app.service.limits, on_ready)
    asyncio.run(server.serve(sockets=[listening]))
