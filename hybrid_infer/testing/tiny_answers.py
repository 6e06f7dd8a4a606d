"""The tiny models' own answers, so that a remote and a local answer agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.registry import load_registry
from hybrid_infer.settings import Settings
from hybrid_infer.testing.answers import ChatAnswer

PATIENCE_SECONDS = 120.0


class TinyAnswers:
    """Answers computed by the local backend on the seeded models, in float32.

    Model names may be aliases, the packaged Hub ids, or their ``tiny/`` twins.
    """

    def __init__(self) -> None:
        from hybrid_infer.local.backend import LocalBackend

        self._registry = load_registry(profile="tiny")
        self._backend = LocalBackend(settings=Settings(), dtype="float32")

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """The local vectors of the same texts."""
        spec = self._registry.resolve("embeddings", model)
        request = EmbedRequest(spec, tuple(texts), normalize, truncate)
        reply = self._backend.call(request, Deadline(PATIENCE_SECONDS))
        if not isinstance(reply, EmbedReply):
            raise TypeError("an embed request is answered with vectors")
        return reply.vectors

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer:
        """The local answer to the same messages and options."""
        spec = self._registry.resolve("chat", model)
        stop = body.get("stop") or ()
        request = ChatRequest(
            spec=spec,
            messages=tuple(body["messages"]),
            max_tokens=int(body.get("max_tokens") or spec.generation.max_tokens),
            max_tokens_is_default=not body.get("max_tokens"),
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            top_k=body.get("top_k"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=body.get("seed"),
            stream=True,
            include_usage=True,
        )
        pieces: list[str] = []
        finish_reason, usage = "stop", None
        stream = self._backend.stream(request, Deadline(PATIENCE_SECONDS))
        for part in stream:
            usage = part.usage or usage
            for choice in part.choices:
                pieces += [choice.delta.content] if choice.delta.content else []
                finish_reason = choice.finish_reason or finish_reason
        return ChatAnswer(
            tuple(pieces),
            finish_reason,
            (usage.prompt_tokens if usage else None) or 0,
            (usage.completion_tokens if usage else None) or 0,
        )

    def close(self) -> None:
        """Unload the tiny models."""
        self._backend.close()
