"""The shapes that users already have in their code: OpenAI's endpoints and the Hub client's arrays."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.client.texts import checked_text, checked_texts
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


def compared_texts(sentence: Any, other_sentences: Any) -> list[str]:
    """The texts of ``sentence_similarity``.

    Raises:
        InvalidRequestError: `sentence` is no text, or `other_sentences` no sequence of texts; one text
            would be one for each of its letters.
    """
    if isinstance(other_sentences, str):
        raise InvalidRequestError(
            "other_sentences must be a sequence of str, not one str", argument="other_sentences"
        )
    first = checked_text(sentence, "sentence")
    return [first, *checked_texts(other_sentences, "other_sentences")]


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


def check_encoding_format(encoding_format: str) -> None:
    """Refuse an unknown format, before anything is computed.

    Raises:
        InvalidRequestError: it is neither ``float`` nor ``base64``.
    """
    if encoding_format not in ("float", "base64"):
        raise InvalidRequestError(
            f"encoding_format must be 'float' or 'base64', not {encoding_format!r}",
            argument="encoding_format",
        )


def check_dimensions(dimensions: int | None, dim: int | None) -> None:
    """Refuse to shorten vectors.

    Raises:
        InvalidRequestError: `dimensions` is another number than the model's.
    """
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
        return self._client.chat_completion(messages, model, **_translated(options))


class AsyncCompletions:
    """`Completions`, awaited."""

    def __init__(self, client: AsyncHybridClient) -> None:
        self._client = client

    async def create(self, *, messages: Any, model: str = "default", **options: Any) -> Any:
        """`AsyncHybridClient.chat_completion` under OpenAI's name."""
        return await self._client.chat_completion(messages, model, **_translated(options))


def _translated(options: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's names for what `chat_completion` calls otherwise.

    ``max_completion_tokens`` is ``max_tokens``, ``timeout`` in seconds is ``deadline``, and
    ``extra_body`` is any further option.

    Raises:
        InvalidRequestError: an option is given twice, or is one of the HTTP request, which the
            local copy could not honour.
    """
    given = {key: value for key, value in options.items() if value is not None}
    extra = given.pop("extra_body", {})
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        raise InvalidRequestError("extra_body must be a mapping by name", argument="extra_body")
    for name in extra:
        _refuse_twice(name, "extra_body", {*given, "messages", "model"})
    given.update(extra)
    refuse_http_options(given)
    for name, ours in (("max_completion_tokens", "max_tokens"), ("timeout", "deadline")):
        if name in given:
            _refuse_twice(ours, name, given)
            given[ours] = given.pop(name)
    return given


def _refuse_twice(name: str, other: str, given: Collection[str]) -> None:
    if name in given:
        raise InvalidRequestError(f"give {name} or {other}, not both", argument=name)


def refuse_http_options(options: Mapping[str, Any]) -> None:
    """Refuse OpenAI's options of the HTTP request.

    Raises:
        InvalidRequestError: there is one.
    """
    for name in ("extra_headers", "extra_query"):
        if name in options:
            raise InvalidRequestError(
                f"{name} has no meaning here: a call may be served without HTTP", argument=name
            )


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
        user: str | None = None,  # noqa: ARG002 - OpenAI's; it changes no vector
        timeout: float | None = None,
    ) -> EmbeddingList:
        """`HybridClient.embed` in OpenAI's shape; ``timeout`` is its ``deadline`` in seconds."""
        check_encoding_format(encoding_format)
        result = self._client.embed(input, model, deadline=timeout)
        check_dimensions(dimensions, result.space.dim)
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
        user: str | None = None,  # noqa: ARG002 - OpenAI's; it changes no vector
        timeout: float | None = None,  # noqa: ASYNC109 - OpenAI's name
    ) -> EmbeddingList:
        """`AsyncHybridClient.embed` in OpenAI's shape."""
        check_encoding_format(encoding_format)
        result = await self._client.embed(input, model, deadline=timeout)
        check_dimensions(dimensions, result.space.dim)
        return embedding_list(result, encoding_format)
