"""Where an answer came from, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

BackendKind = Literal["remote", "local", "cache"]


class Reason(StrEnum):
    """Why a target served a call, or why another one did not. Closed: programs may match on it."""

    PRIMARY = "primary"  # the policy's first choice served
    REQUESTED = "requested"  # the caller's `route=` named the target
    CACHE_HIT = "cache_hit"  # the client's own cache knew the answer
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    AUTHENTICATION = "authentication"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_LOADING = "model_loading"
    SERVER_ERROR = "server_error"
    BAD_RESPONSE = "bad_response"
    CONNECTION_FAILED = "connection_failed"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    NO_API_KEY = "no_api_key"
    OFFLINE = "offline"
    UNSUPPORTED = "unsupported"  # the target cannot honour an option; detail names it
    NOT_DOWNLOADED = "not_downloaded"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    NOT_READY = "not_ready"  # the local copy cannot be loaded and answer in the time left
    OVERLOADED = "overloaded"
    LOCAL_ERROR = "local_error"
    INVALID_REQUEST = "invalid_request"

    @property
    def is_fallback(self) -> bool:
        """Whether a call that was served for this reason was not served by the first choice."""
        return self not in _FIRST_CHOICES


_FIRST_CHOICES = (Reason.PRIMARY, Reason.REQUESTED, Reason.CACHE_HIT)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one target.

    Attributes:
        target: the target's name: a remote's name, or ``"local"``.
        reason: what became of it; None when it served the call.
        error: the class name of its error; None when it served the call.
        latency_seconds: how long the try took.
        retry_after: the wait that the target asked for, in seconds.
        started_after_seconds: when the try began, counted from the call's own beginning.
    """

    target: str
    reason: Reason | None
    error: str | None
    latency_seconds: float
    retry_after: float | None = None
    started_after_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Route:
    """Who served a call.

    Attributes:
        backend: ``"remote"``, ``"local"`` or ``"cache"``.
        provider: the remote's name from models.yaml; None when served locally.
        model: the repository id that served, for instance ``microsoft/Phi-3-mini-4k-instruct``.
        revision: the revision observed, 40 hex digits; None if the remote does not say.
        verified: whether the weights were checked to be the ones asked for. Local: the pinned
            snapshot was loaded. Remote chat: the reply named the model. Remote embeddings: only
            where a canary or ``verify`` compared the space.
        reason: why this target served.
        detail: a human-readable addition to ``reason``, possibly empty.
        attempts: every attempt of the call, the one that served included.
        latency_seconds: from the call's start to its result; for a stream, to its first chunk.
        dtype: the local computation's dtype, for instance ``"bfloat16"``; None when remote.
        quantization: how the local copy's weights were made smaller, for instance ``"int8"`` or
            ``"Q4_K"``; None if they were not, or when remote.
    """

    backend: BackendKind
    provider: str | None
    model: str
    revision: str | None
    verified: bool
    reason: Reason
    detail: str
    attempts: tuple[Attempt, ...]
    latency_seconds: float
    dtype: str | None = None
    quantization: str | None = None
