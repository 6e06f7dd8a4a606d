"""A client, its application and the event loop that serves both."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from hybrid_infer.server.app import new_app
from hybrid_infer.server.lifecycle import HybridServer
from hybrid_infer.server.options import ServerOptions

# Requests in progress are many objects and no garbage. To look for cycles whenever there are 700 more,
# as Python does by itself, took a quarter of the event loop's time beside real batches.
OBJECTS_PER_COLLECTION = 50_000
# How the names of those threads begin that load and compute.
OWN_THREADS = ("hybrid-infer-load", "hybrid-infer-embed", "hybrid-infer-chat")


def run(
    options: ServerOptions,
    listening: socket.socket,
    client_arguments: Mapping[str, Any],
    on_ready: Callable[[str], object],
) -> None:
    """Serve until a signal says otherwise. This may be the end of the process, with 0.

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
    gc.set_threshold(OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])
    server.run(sockets=[listening])  # on uvloop where that is installed
    if any(thread.name.startswith(OWN_THREADS) for thread in threading.enumerate()):
        _leave()


def _leave() -> None:
    """End the process while a thread computes: a load cannot be stopped, and may take minutes.

    The interpreter's own end would unwind such a thread within torch, which aborts the process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(0)
