"""The tiny models' own answers, so that a remote and a local answer agree."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec, Task
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.errors import EngineClosedError, InvalidRequestError, LocalEngineError
from hybrid_infer.settings import Settings
from hybrid_infer.testing.answers import ChatEnd
from hybrid_infer.testing.catalogue import find_model

if TYPE_CHECKING:
    from hybrid_infer.local.backend import LocalBackend
    from hybrid_infer.registry import Registry

PATIENCE_SECONDS = 120.0

_BODY_ONLY = frozenset({"model", "messages", "stream", "stream_options", "n", "user"})
_UNTOLD = ("logprobs",)  # an answer is text alone here
_OPTIONS = ("temperature", "top_p", "top_k", "stop", "seed")


class TinyAnswers:
    """Answers computed by the local backend on the seeded models, in float32.

    Nothing is loaded before the first question. A model may be named by a packaged Hub id, its
    ``tiny/`` twin or an alias; each means the twin.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[Registry, LocalBackend] | None = None
        self._is_closed = False

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """The local vectors of the same texts."""
        from hybrid_infer.client.requests import embed_request

        spec, backend = self._served("embeddings", model)
        request = embed_request(spec, list(texts), normalize=normalize, truncate=truncate)
        reply = backend.call(request, Deadline(PATIENCE_SECONDS))
        if not isinstance(reply, EmbedReply):
            raise LocalEngineError("an embed request was not answered with vectors")
        return reply.vectors

    def chat(self, model: str, body: Mapping[str, Any]) -> Iterator[str | ChatEnd]:
        """The local answer to the same messages and options."""
        from hybrid_infer.client.requests import chat_request

        spec, backend = self._served("chat", model)
        named = {name: body.get(name) for name in _OPTIONS}
        most = body.get("max_tokens", body.get("max_completion_tokens"))
        known = {*_OPTIONS, "max_tokens", "max_completion_tokens", *_BODY_ONLY}
        request = chat_request(
            spec,
            list(body["messages"]),
            Settings(),
            max_tokens=most,
            **named,
            stream=True,
            stream_options={"include_usage": True},
            passthrough={k: v for k, v in body.items() if k not in known},
        )
        refused = backend.unsupported(request)
        option = refused.detail if refused else next(filter(request.passthrough.get, _UNTOLD), None)
        if option is not None:
            raise InvalidRequestError(f"{option} is not supported by this model", argument=option)
        finish_reason, prompt_tokens, completion_tokens = "stop", 0, 0
        with closing(backend.stream(request, Deadline(PATIENCE_SECONDS, renewable=True))) as parts:
            for part in parts:
                if part.usage is not None:
                    prompt_tokens = part.usage.prompt_tokens or 0
                    completion_tokens = part.usage.completion_tokens or 0
                for choice in part.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    if choice.delta.content:
                        yield choice.delta.content
        yield ChatEnd(finish_reason, prompt_tokens, completion_tokens)

    def close(self) -> None:
        """Unload the models; later questions are answered with an error."""
        with self._lock:
            self._is_closed = True
            made, self._made = self._made, None
        if made is not None:
            made[1].close()

    def _served(self, task: Task, model: str) -> tuple[ModelSpec, LocalBackend]:
        known = find_model(model, task)
        if known is None:
            raise InvalidRequestError(f"{model} has no seeded model", argument="model")
        registry, backend = self._loaded()
        return registry.resolve(task, known.name), backend

    def _loaded(self) -> tuple[Registry, LocalBackend]:
        from hybrid_infer.local.backend import LocalBackend
        from hybrid_infer.registry import load_registry

        with self._lock:
            if self._is_closed:
                raise EngineClosedError("these answers were closed")
            if self._made is None:
                registry = load_registry(profile="tiny", environ={})
                backend = LocalBackend(settings=Settings(), device="cpu", dtype="float32")
                self._made = (registry, backend)
            return self._made
