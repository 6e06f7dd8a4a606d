"""The server's life: it listens, says so, drains when told to stop, and ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from hybrid_infer.server.connection import BoundedConnection, ServerConfig
from hybrid_infer.server.gate import Gate
from hybrid_infer.server.options import ServerOptions
from hybrid_infer.settings import ServerSettings

logger = logging.getLogger("hybrid_infer")

SIGNALLED = 128  # shells add a signal's number to it


class HybridServer(uvicorn.Server):
    """uvicorn's server; the first signal drains it, the second ends the process at once.

    Args:
        app: the application.
        options: where it listens.
        limits: how long it drains.
        on_ready: called with the URL once it listens.
    """

    def __init__(
        self,
        app: Gate,
        options: ServerOptions,
        limits: ServerSettings,
        on_ready: Callable[[str], object],
    ) -> None:
        config = ServerConfig(
            app,
            host=options.host,
            port=options.port,
            http=BoundedConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whoever connects could write them
            timeout_keep_alive=round(limits.idle_seconds),
            timeout_graceful_shutdown=round(limits.drain_seconds),
        )
        config.limits = limits
        super().__init__(config)
        self._service, self._host, self._on_ready = app.service, options.host, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            listening = sockets or [s for server in self.servers for s in server.sockets]
            port = listening[0].getsockname()[1]
            host = f"[{self._host}]" if ":" in self._host else self._host
            self._on_ready(f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Drain, or end."""
        if self.should_exit:
            sys.stderr.flush()
            os._exit(SIGNALLED + sig)
        self._service.is_draining = True
        self.should_exit = True
        name = signal.Signals(sig).name
        logger.warning("%s: no new requests; those in progress are finished", name)


def listening_socket(options: ServerOptions) -> socket.socket:
    """A bound socket.

    Raises:
        OSError: the address is taken, or not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, every answer
    # would wait 40 ms for the client's acknowledgement of its head.
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except BaseException:
        opened.close()
        raise
    return opened
