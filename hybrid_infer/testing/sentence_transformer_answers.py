"""Vectors from plain sentence-transformers in float32: an independent remote for real weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.testing.answers import Answers, ChatAnswer, EchoAnswers


class SentenceTransformerAnswers:
    """Embeds with ``SentenceTransformer.encode``; chat is another's business.

    Args:
        path: a local sentence-transformers folder.
        chat: answers chat requests; None: echoes.
    """

    def __init__(self, path: Path, chat: Answers | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(
            str(path), device="cpu", local_files_only=True, trust_remote_code=False
        ).float()
        self._chat: Answers = EchoAnswers() if chat is None else chat
        self._lock = Lock()

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """Vectors of the folder's model, whatever `model` is called."""
        del model, truncate
        with self._lock:
            vectors = self._model.encode(
                list(texts), normalize_embeddings=normalize, show_progress_bar=False
            )
        return np.asarray(vectors, np.float32)

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer:
        """The other's answer."""
        return self._chat.chat(model, body)

    def close(self) -> None:
        """Release the other's models."""
        self._chat.close()
