"""Everything that is neither a model nor a constructor argument, as one frozen `Settings`.

The same names are accepted under ``settings:`` in models.yaml; an unknown one is a `ConfigError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

Policy = Literal["remote-first", "local-first", "remote-only", "local-only"]
Preload = Literal["on_failure", "at_start", "never"]

POLICIES: tuple[Policy, ...] = ("remote-first", "local-first", "remote-only", "local-only")


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """How calls are routed.

    Attributes:
        embed_timeout_seconds: longest time without progress of an ``embed`` call that was
            given no deadline.
        chat_timeout_seconds: the same for chat.
        connect_timeout_seconds: longest time to connect to a remote.
        attempt_timeout_seconds: longest time one remote attempt may take to its first answer byte.
        stream_gap_seconds: longest silence between two events of a stream.
        max_attempts_per_target: tries at one remote within a call.
        local_embed_seconds: expected local time of an embed call, until measured.
        local_chat_seconds: the same for chat.
        preload: when a cold local copy starts loading in the background.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    embed_timeout_seconds: float = 30.0
    chat_timeout_seconds: float = 120.0
    connect_timeout_seconds: float = 3.0
    attempt_timeout_seconds: float = 20.0
    stream_gap_seconds: float = 15.0
    max_attempts_per_target: int = 3
    local_embed_seconds: float = 1.0
    local_chat_seconds: float = 20.0
    preload: Preload = "on_failure"


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How texts are embedded.

    Attributes:
        remote_batch_size: texts per remote request; the servers' own limit is 32.
        remote_concurrency: remote requests of one call in flight together.
        token_budget: tokens of one local batch.
        norm_tolerance: how far a remote vector's norm may be from 1 before it is refused.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    remote_batch_size: int = 32
    remote_concurrency: int = 8
    token_budget: int = 8192
    norm_tolerance: float = 0.02


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How the local chat engine behaves.

    Attributes:
        max_messages: messages of one request at most.
        max_stop_strings: stop strings of one request at most.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_messages: int = 4096
    max_stop_strings: int = 16


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """What may be held in memory.

    Attributes:
        max_body_bytes: largest response body accepted from a remote.
        local_fraction: share of the free memory that local weights may take.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_body_bytes: int = 64 * 1024 * 1024
    local_fraction: float = 0.9


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a client, in four groups."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    routing: RoutingSettings = field(default_factory=RoutingSettings)
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
