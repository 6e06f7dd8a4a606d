"""Texts without end, window by window: one window is one ``embed`` call, so it never mixes backends."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from hybrid_infer.client.switching import Switching
from hybrid_infer.datatypes.embeddings import Embeddings
from hybrid_infer.datatypes.parity import ParityReport
from hybrid_infer.errors import HybridInferError, InvalidRequestError

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

WINDOW_TEXTS = 8192  # seconds of work for a processor, and some megabytes of vectors
WINDOW_CHARACTERS = 4 << 20
_ItemT = TypeVar("_ItemT")
_ClientT = TypeVar("_ClientT")


class WindowCutter:
    """Says after which text a window ends: it depends on this window's texts alone.

    Args:
        max_texts: texts of a window at most.
        max_characters: a window ends with the text that reaches them.
    """

    def __init__(
        self, max_texts: int = WINDOW_TEXTS, max_characters: int = WINDOW_CHARACTERS
    ) -> None:
        self._max_texts, self._max_characters = max_texts, max_characters
        self._texts = self._characters = 0

    def ends_with(self, characters: int) -> bool:
        """Count a text of so many characters; whether it is the last of its window."""
        self._texts += 1
        self._characters += characters
        is_full = self._texts >= self._max_texts or self._characters >= self._max_characters
        if is_full:
            self._texts = self._characters = 0
        return is_full


def cut(
    items: Iterable[_ItemT], characters: Callable[[_ItemT], int], cutter: WindowCutter
) -> Iterator[list[_ItemT]]:
    """The windows of `items`, none of them empty; reads no further than to a window's end."""
    window: list[_ItemT] = []
    for item in items:
        window.append(item)
        if cutter.ends_with(characters(item)):
            yield window
            window = []
    if window:
        yield window


class Client(Protocol):
    """What windows need of `HybridClient`."""

    _session: Session

    def embed(
        self,
        texts: Sequence[str],
        model: str,
        normalize: bool,
        truncate: bool,
        route: str | None,
        deadline: float | None,
    ) -> Embeddings:
        """See `HybridClient.embed`."""

    def verify(self, name: str) -> ParityReport:
        """See `HybridClient.verify`."""


class AsyncClient(Protocol):
    """What windows need of `AsyncHybridClient`."""

    _session: Session

    async def embed(
        self,
        texts: Sequence[str],
        model: str,
        normalize: bool,
        truncate: bool,
        route: str | None,
        deadline: float | None,
    ) -> Embeddings:
        """See `AsyncHybridClient.embed`."""

    async def verify(self, name: str) -> ParityReport:
        """See `AsyncHybridClient.verify`."""


class _Windowed(Generic[_ClientT]):
    """What both kinds of client need to embed window after window, all of one space.

    Args:
        client: whose ``embed`` and ``verify`` are called.
        model: an alias or a Hub id.
        switching: who may serve; it learns as windows are served.
        normalize: whether vectors have unit length.
        truncate: whether over-long texts are cut.
        deadline: seconds for each window; None: the client's.
    """

    def __init__(
        self,
        client: _ClientT,
        model: str,
        switching: Switching,
        *,
        normalize: bool = True,
        truncate: bool = True,
        deadline: float | None = None,
    ) -> None:
        self._client, self._model, self.switching = client, model, switching
        self._options = (normalize, truncate)
        self._deadline = deadline


class WindowedEmbedder(_Windowed[Client]):
    """Embeds window after window, all of one space."""

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed one window.

        Raises:
            HybridInferError: as ``embed`` does.
            EmbeddingSpaceMismatchError: its vectors may not stand beside the earlier ones.
        """
        if self.switching.is_verification_due:
            self.switching.learn(self._report())
        result = self._call(texts)
        if not self.switching.accept(result):
            result = self._call(texts)
            self.switching.check(result)
        return result

    def _call(self, texts: Sequence[str]) -> Embeddings:
        route = self.switching.route
        return self._client.embed(texts, self._model, *self._options, route, self._deadline)

    def _report(self) -> ParityReport | None:
        try:
            return self._client.verify(_verified_name(self._model))
        except HybridInferError:
            return None


class AsyncWindowedEmbedder(_Windowed[AsyncClient]):
    """`WindowedEmbedder`, awaited."""

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """See `WindowedEmbedder.embed`."""
        if self.switching.is_verification_due:
            self.switching.learn(await self._report())
        result = await self._call(texts)
        if not self.switching.accept(result):
            result = await self._call(texts)
            self.switching.check(result)
        return result

    async def _call(self, texts: Sequence[str]) -> Embeddings:
        route = self.switching.route
        return await self._client.embed(texts, self._model, *self._options, route, self._deadline)

    async def _report(self) -> ParityReport | None:
        try:
            return await self._client.verify(_verified_name(self._model))
        except HybridInferError:
            return None


def embed_stream(embedder: WindowedEmbedder, texts: Iterable[str]) -> Iterator[Embeddings]:
    """See `HybridClient.embed_stream`."""
    _check_texts(texts, is_iterable=isinstance(texts, Iterable))
    return (embedder.embed(window) for window in cut(texts, _characters, WindowCutter()))


def embed_stream_async(
    embedder: AsyncWindowedEmbedder, texts: Iterable[str] | AsyncIterable[str]
) -> AsyncIterator[Embeddings]:
    """See `AsyncHybridClient.embed_stream`."""
    _check_texts(texts, is_iterable=isinstance(texts, Iterable | AsyncIterable))

    async def results() -> AsyncIterator[Embeddings]:
        async for window in _cut_async(texts):
            yield await embedder.embed(window)

    return results()


async def _cut_async(texts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[list[str]]:
    if isinstance(texts, Iterable):
        windows = cut(texts, _characters, WindowCutter())
        # What is read may be a file or a socket, and must not stop the event loop.
        while (window := await asyncio.to_thread(next, windows, None)) is not None:
            yield window
        return
    cutter, window = WindowCutter(), []
    async for text in texts:
        window.append(text)
        if cutter.ends_with(_characters(text)):
            yield window
            window = []
    if window:
        yield window


def _verified_name(model: str) -> str:
    return model if "/" in model else f"embeddings/{model}"


def _check_texts(texts: Any, *, is_iterable: bool) -> None:
    if isinstance(texts, str | bytes | bytearray) or not is_iterable:
        raise InvalidRequestError(
            f"texts must be an iterable of str, not {type(texts).__name__}", argument="texts"
        )


def _characters(text: Any) -> int:
    return len(text) if isinstance(text, str) else 0  # ``embed`` refuses it
