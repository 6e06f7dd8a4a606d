"""LlamaIndex's `BaseEmbedding`; needs the extra ``llama-index`` (llama-index-core)."""

from __future__ import annotations

from typing import Any

from hybrid_infer.adapters.clients import Clients
from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.client.sync import HybridClient

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
except ImportError as missing:
    raise ImportError(
        'the LlamaIndex adapter needs llama-index-core: pip install "hybrid-infer[llama-index]"'
    ) from missing

TEXTS_PER_CALL = 256  # the engine makes its own batches, so few large calls serve it best


class HybridInferEmbedding(BaseEmbedding):
    """An embedding model for LlamaIndex; many texts are one call.

    Args:
        model_name: an alias or a Hub id.
        client: serves blocking calls, and awaited ones if there is no `async_client`; None: a
            `HybridClient()`.
        async_client: serves awaited calls.
        embed_batch_size: texts of one call, at most 2,048.
        **kwargs: further fields of `BaseEmbedding`.
    """

    _clients: Clients = PrivateAttr()

    def __init__(
        self,
        model_name: str = "default",
        *,
        client: HybridClient | None = None,
        async_client: AsyncHybridClient | None = None,
        embed_batch_size: int = TEXTS_PER_CALL,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name=model_name, embed_batch_size=embed_batch_size, **kwargs)
        self._clients = Clients(client, async_client)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex stores."""
        return "HybridInferEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._clients.blocking.embed(
            texts, self.model_name
        ).vectors.tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        result = await self._clients.embed(texts, self.model_name)
        vectors: list[list[float]] = result.vectors.tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._aget_text_embedding(query)
