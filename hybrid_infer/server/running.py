"""A client, its application and the event loop that serves both."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Mapping
from typing import Any

from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.observers import combine
from hybrid_infer.registry import load_registry
from hybrid_infer.server.app import create_app
from hybrid_infer.server.lifecycle import HybridServer
from hybrid_infer.server.metrics import Metrics
from hybrid_infer.server.options import ServerOptions
from hybrid_infer.server.statistics import Statistics
from hybrid_infer.server.token_ids import TokenTexts

# Requests in progress are many objects and no garbage. To look for cycles whenever there are 700 more,
# as Python does by itself, took a quarter of the event loop's time beside real batches.
OBJECTS_PER_COLLECTION = 50_000


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
    registry = load_registry(
        client_arguments.get("models"),
        profile=client_arguments.get("profile"),
        base_url=client_arguments.get("base_url"),
    )
    limits, statistics, metrics = registry.settings.server, Statistics(), Metrics()
    observer = combine(statistics, metrics.observer)
    client = AsyncHybridClient(**client_arguments, on_event=observer)
    token_texts = TokenTexts(registry) if options.accepts_token_ids else None
    app = create_app(client, options, limits, statistics, metrics, token_texts)
    server = HybridServer(app, options, limits, on_ready)
    gc.set_threshold(OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])
    server.run(sockets=[listening])  # on uvloop where that is installed
