"""The application: every path behind one gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from hybrid_infer import __version__
from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.observers import combine
from hybrid_infer.registry import load_registry
from hybrid_infer.server.describing import DescribedApp
from hybrid_infer.server.gate import Gate
from hybrid_infer.server.metrics import Metrics
from hybrid_infer.server.options import ServerOptions
from hybrid_infer.server.routes import huggingface, openai, operations, page, tei
from hybrid_infer.server.service import Service
from hybrid_infer.server.serving import Application
from hybrid_infer.server.statistics import Statistics
from hybrid_infer.server.token_ids import TokenTexts
from hybrid_infer.settings import ServerSettings


def create_app(
    client: AsyncHybridClient,
    options: ServerOptions,
    limits: ServerSettings,
    statistics: Statistics,
    metrics: Metrics,
    token_texts: TokenTexts | None = None,
) -> Gate:
    """The server's application behind its gate; it closes the client when it ends.

    Args:
        client: serves every call; its observers are `statistics` and that of `metrics`.
        options: who may ask.
        limits: for what.
        statistics: what `/status` and the page tell.
        metrics: what `/metrics` tells.
        token_texts: makes texts of token ids; None: they are refused.
    """

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield
        await client.close()

    service = Service(client, limits, statistics, metrics, token_texts)
    described = DescribedApp(title="hybrid_infer", version=__version__, openapi_url=None)
    for family in (openai, huggingface, tei, operations, page):
        described.router.routes.extend(family.router.routes)
    app = Application(described.routes, service, described.openapi, lifespan)
    return Gate(app, options, service)


def new_app(options: ServerOptions, client_arguments: Mapping[str, Any]) -> Gate:
    """`create_app` around a client of its own.

    Args:
        options: who may ask.
        client_arguments: of `AsyncHybridClient`; the limits are those of its models.yaml.

    Raises:
        ConfigError: an argument of the client is wrong.
    """
    registry = load_registry(
        client_arguments.get("models"),
        profile=client_arguments.get("profile"),
        base_url=client_arguments.get("base_url"),
    )
    statistics, metrics = Statistics(), Metrics()
    observer = combine(statistics, metrics)
    client = AsyncHybridClient(**client_arguments, on_event=observer)
    token_texts = TokenTexts(registry) if options.accepts_token_ids else None
    return create_app(client, options, registry.settings.server, statistics, metrics, token_texts)
