"""Vectors from plain sentence-transformers in float32: an independent remote for real weights."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.testing.answers import Answers, ChatAnswer, ChatEnd, EchoAnswers


class SentenceTransformerAnswers:
    """Embeds with ``SentenceTransformer.encode`` on the CPU; chat is another's business.

    Args:
        path: a local sentence-transformers folder; nothing is downloaded.
        chat: answers chat requests; None: echoes.
    """

    def __init__(self, path: str | os.PathLike[str], chat: Answers | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        whole = SentenceTransformer(
            os.fspath(path), device="cpu", local_files_only=True, trust_remote_code=False
        ).float()
        # Without the folder's own Normalize, normalize=False gives what it says. By name, because
        # the class moves between versions.
        modules = [module for module in whole if type(module).__name__ != "Normalize"]
        self._model = SentenceTransformer(modules=modules, device="cpu")
        self._chat: Answers = EchoAnswers() if chat is None else chat
        self._lock = threading.Lock()

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """Vectors of the folder's model, whatever `model` is called; over-long texts are cut."""
        del model, truncate
        with self._lock:  # one at a time: the tokenizer is not safe to share
            vectors = self._model.encode(
                list(texts), normalize_embeddings=normalize, show_progress_bar=False
            )
        return np.asarray(vectors, np.float32)

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer | Iterator[str | ChatEnd]:
        """The other's answer."""
        return self._chat.chat(model, body)

    def close(self) -> None:
        """Close the chat's answers, where they can be closed."""
        close = getattr(self._chat, "close", None)
        if close is not None:
            close()
