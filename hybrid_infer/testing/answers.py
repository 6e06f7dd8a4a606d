"""What a healthy fake remote says: the protocol, and the instant made-up answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer: the pieces that a stream sends one by one, why it ended, what it cost."""

    pieces: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Answers(Protocol):
    """Where a fake remote's healthy answers come from. Called from worker threads."""

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """Vectors, float32 ``(n, dim)``."""
        ...

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer:
        """An answer to an OpenAI-shaped request body."""
        ...

    def close(self) -> None:
        """Release what was loaded."""
        ...


class EchoAnswers:
    """Instant answers without a model: vectors seeded by the text, chat that repeats the prompt.

    Args:
        dim: length of a vector; None: 384 for names with ``MiniLM`` or ``small``, else 768.
    """

    def __init__(self, dim: int | None = None) -> None:
        self._dim = dim

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """Vectors that depend on each text alone."""
        del truncate  # nothing here has a limit
        small = "minilm" in model.lower() or "small" in model.lower()
        dim = self._dim or (384 if small else 768)
        rows = [_seeded_row(f"{model}\0{text}", dim) for text in texts]
        vectors = np.array(rows, np.float32).reshape(len(rows), dim)
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer:
        """The last message's own words, at most ``max_tokens`` of them."""
        del model
        words = str(body["messages"][-1].get("content", "")).split() or ["…"]
        most = int(body.get("max_tokens") or 16)
        said = words[:most]
        pieces = tuple(word if i == 0 else f" {word}" for i, word in enumerate(said))
        finish_reason = "length" if len(words) > most else "stop"
        return ChatAnswer(pieces, finish_reason, len(words), len(said))

    def close(self) -> None:
        """Nothing to release."""


def _seeded_row(seed: str, dim: int) -> NDArray[np.float32]:
    key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(dim, np.float32)
