"""The shapes that users already have in their code: OpenAI's endpoints and the Hub client's arrays."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.embeddings import Embeddings, EmbeddingUsage
from hybrid_infer.datatypes.route import Route
from hybrid_infer.errors import InvalidRequestError

if TYPE_CHECKING:
    from hybrid_infer.client.aio import AsyncHybridClient
    from hybrid_infer.client.sync import HybridClient


@dataclass(frozen=True, slots=True)
class EmbeddingItem:
    """One vector in OpenAI's shape: a list of floats, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


@dataclass(frozen=True, slots=True)
class EmbeddingList:
    """The result of ``client.embeddings.create`` in OpenAI's shape, with its route."""

    data: tuple[EmbeddingItem, ...]
    model: str
    usage: EmbeddingUsage
    route: Route
    object: str = "list"


def one_or_many(texts: Any, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(dim,)`` for one string, ``(n, dim)`` for a sequence."""
    return vectors[0] if isinstance(texts, str) else vectors


def similarities(vectors: NDArray[np.float32]) -> list[float]:
    """The cosine of the first (unit-length) row with each of the others."""
    cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
    return cosines


def embedding_list(result: Embeddings, encoding_format: str) -> EmbeddingList:
    """`result` in OpenAI's shape."""
    items: list[EmbeddingItem] = []
    for index, row in enumerate(result.vectors):
        if encoding_format == "base64":
            encoded: list[float] | str = base64.b64encode(row.astype("<f4").tobytes()).decode()
        else:
            encoded = row.tolist()
        items.append(EmbeddingItem(index, encoded))
    return EmbeddingList(tuple(items), result.route.model, result.usage, result.route)


def check_embedding_options(encoding_format: str, dimensions: int | None, dim: int | None) -> None:
    """Refuse what no backend can honour.

    Raises:
        InvalidRequestError: an unknown format, or `dimensions` other than the model's.
    """
    if encoding_format not in ("float", "base64"):
        raise InvalidRequestError(
            f"encoding_format must be 'float' or 'base64', not {encoding_format!r}",
            argument="encoding_format",
        )
    if dimensions is not None and dimensions != dim:
        raise InvalidRequestError(
            f"dimensions must be the model's own ({dim}), not {dimensions!r}",
            argument="dimensions",
        )


class Completions:
    """``client.chat.completions``."""

    def __init__(self, client: HybridClient) -> None:
        self._client = client

    def create(self, *, messages: Any, model: str = "default", **options: Any) -> Any:
        """`HybridClient.chat_completion` under OpenAI's name; ``max_completion_tokens`` is accepted."""
        return self._client.chat_completion(messages, model, **_renamed(options))


class AsyncCompletions:
    """`Completions`, awaited."""

    def __init__(self, client: AsyncHybridClient) -> None:
        self._client = client

    async def create(self, *, messages: Any, model: str = "default", **options: Any) -> Any:
        """`AsyncHybridClient.chat_completion` under OpenAI's name."""
        return await self._client.chat_completion(messages, model, **_renamed(options))


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's newer name for ``max_tokens`` means the same."""
    if "max_completion_tokens" not in options:
        return options
    if options.get("max_tokens") is not None:
        raise InvalidRequestError(
            "give max_tokens or max_completion_tokens, not both", argument="max_tokens"
        )
    rest = {k: v for k, v in options.items() if k not in ("max_completion_tokens", "max_tokens")}
    return {**rest, "max_tokens": options["max_completion_tokens"]}


class Chat:
    """``client.chat``."""

    def __init__(self, client: HybridClient) -> None:
        self.completions = Completions(client)


class AsyncChat:
    """`Chat`, awaited."""

    def __init__(self, client: AsyncHybridClient) -> None:
        self.completions = AsyncCompletions(client)


class EmbeddingsEndpoint:
    """``client.embeddings``."""

    def __init__(self, client: HybridClient) -> None:
        self._client = client

    def create(
        self,
        *,
        input: str | Sequence[str],  # noqa: A002 - OpenAI's name
        model: str = "default",
        encoding_format: str = "float",
        dimensions: int | None = None,
    ) -> EmbeddingList:
        """`HybridClient.embed` in OpenAI's shape."""
        result = self._client.embed(input, model)
        check_embedding_options(encoding_format, dimensions, result.space.dim)
        return embedding_list(result, encoding_format)


class AsyncEmbeddingsEndpoint:
    """`EmbeddingsEndpoint`, awaited."""

    def __init__(self, client: AsyncHybridClient) -> None:
        self._client = client

    async def create(
        self,
        *,
        input: str | Sequence[str],  # noqa: A002 - OpenAI's name
        model: str = "default",
        encoding_format: str = "float",
        dimensions: int | None = None,
    ) -> EmbeddingList:
        """`AsyncHybridClient.embed` in OpenAI's shape."""
        result = await self._client.embed(input, model)
        check_embedding_options(encoding_format, dimensions, result.space.dim)
        return embedding_list(result, encoding_format)
