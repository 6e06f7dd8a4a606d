"""Validated, frozen requests: what the router and every backend work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hybrid_infer.datatypes.models import ModelSpec


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """One ``embed`` call.

    Attributes:
        spec: the model.
        texts: what to embed, already cut where a text was absurdly long.
        normalize: whether vectors are made one long, whether the snapshot has a Normalize module or
            not; else the one that ends it is left out.
        truncate: whether over-long texts are cut (else they are a `ContextLengthError`).
        cut_texts: indices of texts that were cut before tokenising.
        prompt: what a remote is sent before each text; the local copy knows its own.
    """

    spec: ModelSpec
    texts: tuple[str, ...] = field(repr=False)
    normalize: bool = True
    truncate: bool = True
    cut_texts: frozenset[int] = frozenset()
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One ``chat_completion`` call; defaults of the alias are already filled in.

    Attributes:
        spec: the model.
        messages: ``{"role": …, "content": …}`` mappings in OpenAI's shape.
        max_tokens: new tokens at most.
        max_tokens_is_default: whether `max_tokens` came from the alias and may shrink to the
            window that is left.
        temperature: 0 is greedy; None leaves it to the backend.
        top_p: nucleus mass, or None.
        top_k: candidates kept, or None.
        stop: strings that end the answer and are not part of it.
        seed: for reproducible sampling, or None.
        stream: whether chunks are wanted.
        include_usage: whether a stream ends with a usage chunk.
        passthrough: ``tools``, ``tool_choice``, ``response_format`` and ``**extra``, sent
            to remotes as they are; a backend that does not know one leaves the plan. Those that
            are known have been checked.
        continues: whether another target may go on with a stream that breaks.
        answer_so_far: what a broken stream has said already; the answer goes on behind it. Only
            the local copy can.
    """

    spec: ModelSpec
    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    max_tokens: int
    max_tokens_is_default: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    passthrough: Mapping[str, Any] = field(default_factory=dict, repr=False)
    continues: bool = True
    answer_so_far: str = field(default="", repr=False)


Request: TypeAlias = EmbedRequest | ChatRequest
