"""The clients behind an adapter that is called both ways: one of the two is enough."""

from __future__ import annotations

import asyncio
from threading import Lock

from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.client.sync import HybridClient
from hybrid_infer.datatypes.embeddings import Embeddings
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ConfigError, InvalidRequestError


class Clients:
    """A blocking client, an asynchronous one, or both. Whoever gave them closes them.

    Two clients load a local copy each; with a blocking one alone, awaited calls run on a thread.

    Args:
        blocking: None with `asynchronous`: blocking calls are refused. None without: a
            `HybridClient()` is made for the first call.
        asynchronous: serves what is awaited; None: the blocking one does.
    """

    def __init__(
        self, blocking: HybridClient | None, asynchronous: AsyncHybridClient | None
    ) -> None:
        self._given = self._blocking = blocking
        self.asynchronous = asynchronous
        self._lock = Lock()
        self._specs: dict[str, ModelSpec] = {}

    def are_of(self, blocking: HybridClient | None, asynchronous: AsyncHybridClient | None) -> bool:
        """Whether these are the clients that were given."""
        return self._given is blocking and self.asynchronous is asynchronous

    @property
    def blocking(self) -> HybridClient:
        """The blocking client.

        Raises:
            ConfigError: there is only an asynchronous one.
        """
        with self._lock:
            if self._blocking is None and self.asynchronous is not None:
                raise ConfigError(
                    "this call blocks, and only async_client= was given: pass client= too"
                )
            if self._blocking is None:
                self._blocking = HybridClient()
            return self._blocking

    def chat_spec(self, model: str) -> ModelSpec:
        """What a client's chat methods mean by a model.

        Args:
            model: an alias or a Hub id.

        Raises:
            InvalidRequestError: there is no such alias.
        """
        known = self._specs.get(model)
        if known is None:
            known = self._specs[model] = self._looked_up(model)
        return known

    def _looked_up(self, model: str) -> ModelSpec:
        rows = [
            r for r in (self.asynchronous or self.blocking).list_models() if r["task"] == "chat"
        ]
        named = [row for row in rows if model in (row["alias"], row["name"])]
        for row in named or [row for row in rows if model == row["repo"]]:
            return ModelSpec("chat", row["alias"], row["repo"], row["revision"])
        if "/" not in model:
            raise InvalidRequestError(f"there is no chat alias {model!r}", argument="model")
        return ModelSpec("chat", None, model, None)

    async def embed(self, texts: list[str], model: str) -> Embeddings:
        """`HybridClient.embed`, awaited."""
        if self.asynchronous is None:
            return await asyncio.to_thread(self.blocking.embed, texts, model)
        return await self.asynchronous.embed(texts, model)
