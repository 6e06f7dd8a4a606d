"""Everything that is neither a model nor a constructor argument, as one frozen `Settings`.

The same names are accepted under ``settings:`` in models.yaml; an unknown one is a `ConfigError`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from hybrid_infer.errors import ConfigError

Policy = Literal["remote-first", "local-first", "remote-only", "local-only"]
Preload = Literal["on_failure", "at_start", "never"]
CanaryMode = Literal["elsewhere", "always", "never"]

POLICIES: tuple[Policy, ...] = ("remote-first", "local-first", "remote-only", "local-only")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be: `above` is excluded, `at_least` and `at_most` are included."""

    at_most: float
    at_least: float | None = None
    above: float | None = None

    def admit(self, value: float) -> bool:
        """Whether `value` lies within; NaN never does."""
        if self.above is not None and not value > self.above:
            return False
        return value <= self.at_most and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        low = f"above {self.above:g}" if self.above is not None else f"from {self.at_least:,.15g}"
        joint = "and at most" if self.above is not None else "to"
        return f"{low} {joint} {self.at_most:,.15g}"


Seconds = Annotated[float, Bounds(above=0, at_most=86_400)]
Fraction = Annotated[float, Bounds(above=0, at_most=1)]


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
        max_attempts_per_target: tries at one remote within a call; after server errors there are
            no more than two, or three where nothing else can serve.
        local_embed_seconds: expected local time of an embed call, until measured.
        local_chat_seconds: the same for chat.
        preload: when a cold local copy starts loading in the background: ``on_failure``, with the
            first failure or closed gate of a remote (default), ``at_start``, with the model's
            first call, or ``never``.
        hedge: whether a small ``embed`` call whose remote is slower than usual is also computed
            locally, the first answer winning; at most one call in twenty.
        canary: which remotes' embeddings are compared in the background with what the pinned
            model is known to answer: those ``elsewhere``, that is, not on this machine
            (default), ``always`` every one, or ``never`` any.
        canary_seconds: time between two such comparisons of one model at one remote.
    """

    embed_timeout_seconds: Seconds = 30.0
    chat_timeout_seconds: Seconds = 120.0
    connect_timeout_seconds: Seconds = 3.0
    attempt_timeout_seconds: Seconds = 20.0
    stream_gap_seconds: Seconds = 15.0
    max_attempts_per_target: Annotated[int, Bounds(at_least=1, at_most=10)] = 3
    local_embed_seconds: Seconds = 1.0
    local_chat_seconds: Seconds = 20.0
    preload: Preload = "on_failure"
    hedge: bool = False
    canary: CanaryMode = "elsewhere"
    canary_seconds: Seconds = 3600.0


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How texts are embedded.

    Attributes:
        remote_batch_size: texts per remote request; the servers' own limit is 32.
        remote_concurrency: remote requests of one call in flight together.
        token_budget: tokens that are computed together locally. None: 4,096 on a CPU, and on a GPU
            as many as a part of its free memory has room for, up to 131,072.
        norm_tolerance: how far a remote vector's norm may be from 1 before it is refused.
    """

    remote_batch_size: Annotated[int, Bounds(at_least=1, at_most=32)] = 32
    remote_concurrency: Annotated[int, Bounds(at_least=1, at_most=64)] = 8
    token_budget: Annotated[int, Bounds(at_least=16, at_most=1_048_576)] | None = None
    norm_tolerance: Fraction = 0.02


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """What one chat request may hold, whoever serves it.

    Attributes:
        max_messages: messages of one request at most.
        max_stop_strings: stop strings of one request at most.
    """

    max_messages: Annotated[int, Bounds(at_least=1, at_most=1_000_000)] = 4096
    max_stop_strings: Annotated[int, Bounds(at_least=1, at_most=1_000)] = 16


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """What may be held in memory.

    Attributes:
        max_body_bytes: largest response body accepted from a remote.
        local_fraction: share of a device's free memory that a local model may take; a fifth of
            its weights is counted on top of them in any case, for buffers.
        budget_bytes: what all local models together may take, caches included; when one more does
            not fit, those that were used longest ago and serve no call make room. None: as much
            as is free.
        idle_seconds: after how long without a call a local model is dropped from memory; None:
            never.
    """

    max_body_bytes: Annotated[int, Bounds(at_least=1024, at_most=16 * 1024**3)] = 64 * 1024 * 1024
    local_fraction: Fraction = 1.0
    budget_bytes: Annotated[int, Bounds(at_least=1024**2, at_most=2**60)] | None = None
    idle_seconds: Seconds | None = None


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """What a local copy must prove before it is loaded.

    Attributes:
        strict: whether a model that is not pinned to a commit, or whose files models.lock does not
            list, is refused; a listed file must have its hash in any case.
    """

    strict: bool = False


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What ``hybrid-infer serve`` accepts from a client.

    Attributes:
        max_connections: open connections; one more is answered 429.
        max_requests: requests in progress; one more is answered 429.
        max_waiting_texts: texts of all embeddings requests in progress; a request that would
            go above is answered 429, unless it is the only one.
        max_header_bytes: of one request's head and trailers.
        max_body_bytes: of one request's body; the default is text-embeddings-inference's.
        max_json_depth: lists and objects within each other.
        max_texts: texts of one embeddings request.
        max_text_characters: characters of one text or message.
        max_tokens: the largest ``max_tokens`` that a chat request may ask for.
        max_choices: the largest ``n`` that a chat request may ask for.
        header_seconds: time in which a request's head must have arrived.
        body_seconds: time in which its body must have arrived, and in which a reader must take
            a piece of its answer.
        idle_seconds: how long a connection without a request is kept.
        drain_seconds: time that requests in progress are given when the server is told to stop.
    """

    max_connections: Annotated[int, Bounds(at_least=1, at_most=65_536)] = 256
    max_requests: Annotated[int, Bounds(at_least=1, at_most=65_536)] = 128
    max_waiting_texts: Annotated[int, Bounds(at_least=1, at_most=1_000_000)] = 8192
    max_header_bytes: Annotated[int, Bounds(at_least=1024, at_most=1024**2)] = 16 * 1024
    max_body_bytes: Annotated[int, Bounds(at_least=1024, at_most=1024**3)] = 2_000_000
    max_json_depth: Annotated[int, Bounds(at_least=4, at_most=256)] = 16
    max_texts: Annotated[int, Bounds(at_least=1, at_most=65_536)] = 2048
    max_text_characters: Annotated[int, Bounds(at_least=1, at_most=1024**3)] = 100_000
    max_tokens: Annotated[int, Bounds(at_least=1, at_most=1_048_576)] = 4096
    max_choices: Annotated[int, Bounds(at_least=1, at_most=128)] = 4
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    idle_seconds: Seconds = 75.0
    drain_seconds: Seconds = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a client, and of the server around it, in six groups."""

    routing: RoutingSettings = field(default_factory=RoutingSettings)
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    server: ServerSettings = field(default_factory=ServerSettings)


SETTING_GROUPS: dict[str, type] = {
    "routing": RoutingSettings,
    "embedding": EmbeddingSettings,
    "generation": GenerationSettings,
    "memory": MemorySettings,
    "trust": TrustSettings,
    "server": ServerSettings,
}


@functools.cache
def setting_hints(group: str) -> dict[str, Any]:
    """The annotation of every setting of one group, bounds included."""
    return get_type_hints(SETTING_GROUPS[group], include_extras=True)


def checked_setting(group: str, name: str, value: object) -> Any:
    """One setting's value in its own type.

    Args:
        group: a key of `SETTING_GROUPS`.
        name: a field of that group.
        value: what the user wrote.

    Raises:
        ValueError: the value has another type or lies out of bounds; the message starts with
            "must be" and does not repeat the value.
    """
    hint = setting_hints(group)[name]
    if NoneType in get_args(hint):
        if value is None:
            return None
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is Literal:
        choices: tuple[str, ...] = get_args(hint)
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value
    if hint is bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    kind, bounds = get_args(hint)
    accepted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted) or not bounds.admit(value):
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"must be {noun} {bounds}")
    return kind(value)


def validated_settings(settings: Settings) -> Settings:
    """The constructor's ``settings=`` argument, within the same bounds as models.yaml's section.

    Args:
        settings: a `Settings`.

    Returns:
        Equal settings, whole numbers given for seconds and fractions turned into floats.

    Raises:
        ConfigError: it is something else, or a value is wrong; the message names it, for
            instance ``settings.routing.embed_timeout_seconds``.
    """
    if not isinstance(settings, Settings):
        raise ConfigError(f"settings must be a Settings, not {type(settings).__name__}")
    groups = {}
    for group, group_type in SETTING_GROUPS.items():
        given = getattr(settings, group)
        if not isinstance(given, group_type):
            raise ConfigError(
                f"settings.{group} must be a {group_type.__name__}, not {type(given).__name__}"
            )
        values = {}
        for setting in fields(group_type):
            try:
                value = checked_setting(group, setting.name, getattr(given, setting.name))
            except ValueError as error:
                raise ConfigError(f"settings.{group}.{setting.name} {error}") from None
            values[setting.name] = value
        groups[group] = group_type(**values)
    return Settings(**groups)
