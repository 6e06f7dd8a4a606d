"""``embed_stream`` of both clients."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING

from hybrid_infer.client import windows
from hybrid_infer.client.switching import Switching
from hybrid_infer.datatypes.embeddings import Embeddings

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session


class EmbedStreams:
    """The part of `HybridClient` that embeds texts without end."""

    _session: Session

    def embed_stream(
        self: windows.Client,
        texts: Iterable[str],
        model: str = "default",
        normalize: bool = True,
        truncate: bool = True,
        route: str | None = None,
        deadline: float | None = None,
    ) -> Iterator[Embeddings]:
        """Embed any number of texts in bounded memory, window by window.

        Args:
            texts: any iterable of strings; it is read window by window, as results are taken.
            model: an alias (``default``, ``large``, ``small``) or a Hub id.
            normalize: whether vectors have unit length; False is another embedding space.
            truncate: whether over-long texts are cut at the model's limit.
            route: ``"local"``, ``"remote"`` or a remote's name; None leaves it to the policy.
            deadline: seconds for each window; None: the client's.

        Returns:
            Each window's result, in order; a window has at most 8,192 texts. All are of one space,
            and one is served by another backend than the last only after ``verify`` has passed.

        Raises:
            HybridInferError: as ``embed``; an index is counted within its window.
        """
        switching = Switching(self._session.policy, self._session.targets, route)
        embedder = windows.WindowedEmbedder(
            self, model, switching, normalize=normalize, truncate=truncate, deadline=deadline
        )
        return windows.embed_stream(embedder, texts)


class AsyncEmbedStreams:
    """The part of `AsyncHybridClient` that embeds texts without end."""

    _session: Session

    def embed_stream(
        self: windows.AsyncClient,
        texts: Iterable[str] | AsyncIterable[str],
        model: str = "default",
        normalize: bool = True,
        truncate: bool = True,
        route: str | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[Embeddings]:
        """`HybridClient.embed_stream` for ``async for``; `texts` may be asynchronous, too."""
        switching = Switching(self._session.policy, self._session.targets, route)
        embedder = windows.AsyncWindowedEmbedder(
            self, model, switching, normalize=normalize, truncate=truncate, deadline=deadline
        )
        return windows.embed_stream_async(embedder, texts)
