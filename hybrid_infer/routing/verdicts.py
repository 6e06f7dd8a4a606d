"""What each kind of failure leads to: the table of design, read from an error class in one hop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigError,
    DeadlineExceededError,
    EmbeddingSpaceMismatchError,
    EngineClosedError,
    HybridInferError,
    InsufficientMemoryError,
    InvalidRequestError,
    LocalEngineError,
    ModelIntegrityError,
    ModelLoadingError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
    StreamInterruptedError,
)

HOUR_SECONDS = 3600.0
MAX_GATE_SECONDS = 3600.0


class Retry(Enum):
    """When the same target may be asked again within a call, if nothing else can serve."""

    NEVER = auto()
    AFTER_WAIT = auto()  # after the wait that the target named, or a backoff
    JITTERED = auto()  # once after a jittered backoff; twice if there is no other target at all
    POLL = auto()  # again and again until the deadline


class Scope(StrEnum):
    """What a failure says something about, and what it closes."""

    HOST = "host"  # whatever answers, or does not, at this address
    ACCOUNT = "account"  # everything sent to this remote with this key
    MODEL = "model"  # this model at this remote


@dataclass(frozen=True, slots=True)
class Gate:
    """How long, and for what, a failure closes a remote.

    Attributes:
        scope: what is closed.
        seconds: for how long; None: the wait that the remote named.
        least_seconds: lower bound of that wait.
        most_seconds: upper bound of that wait.
        needs_probe: whether one call goes first when the time is over.
    """

    scope: Scope
    seconds: float | None
    least_seconds: float = 0.0
    most_seconds: float = MAX_GATE_SECONDS
    needs_probe: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failure.

    Attributes:
        reason: the word for it in `Route.reason` and `Attempt.reason`.
        falls_back: whether another target may serve the call.
        retry: when the same target may be asked again.
        gate: what stays closed for later calls.
        counts_against: whose breaker counts it as a failure; None: nobody's.
    """

    reason: Reason
    falls_back: bool = True
    retry: Retry = Retry.NEVER
    gate: Gate | None = None
    counts_against: Scope | None = None


VERDICTS: dict[type[HybridInferError], Verdict] = {
    InvalidRequestError: Verdict(Reason.INVALID_REQUEST, falls_back=False),
    RateLimitError: Verdict(
        Reason.RATE_LIMITED, retry=Retry.AFTER_WAIT, gate=Gate(Scope.ACCOUNT, None)
    ),
    OverloadedError: Verdict(
        Reason.OVERLOADED,
        retry=Retry.JITTERED,
        gate=Gate(Scope.MODEL, None, least_seconds=1.0, most_seconds=5.0),
    ),
    QuotaExceededError: Verdict(
        Reason.QUOTA_EXCEEDED, gate=Gate(Scope.ACCOUNT, HOUR_SECONDS, needs_probe=True)
    ),
    AuthenticationError: Verdict(Reason.AUTHENTICATION, gate=Gate(Scope.ACCOUNT, 300.0)),
    ModelNotAvailableError: Verdict(Reason.MODEL_UNAVAILABLE, gate=Gate(Scope.MODEL, HOUR_SECONDS)),
    ModelLoadingError: Verdict(
        Reason.MODEL_LOADING,
        retry=Retry.POLL,
        gate=Gate(Scope.MODEL, None, most_seconds=120.0),
    ),
    RemoteProtocolError: Verdict(Reason.BAD_RESPONSE, counts_against=Scope.MODEL),
    RemoteServerError: Verdict(
        Reason.SERVER_ERROR, retry=Retry.JITTERED, counts_against=Scope.MODEL
    ),
    APIConnectionError: Verdict(Reason.CONNECTION_FAILED, counts_against=Scope.HOST),
    APITimeoutError: Verdict(Reason.TIMEOUT, retry=Retry.JITTERED, counts_against=Scope.MODEL),
    DeadlineExceededError: Verdict(Reason.TIMEOUT, counts_against=Scope.MODEL),
    StreamInterruptedError: Verdict(
        Reason.BAD_RESPONSE, retry=Retry.JITTERED, counts_against=Scope.MODEL
    ),
    EmbeddingSpaceMismatchError: Verdict(Reason.BAD_RESPONSE, gate=Gate(Scope.MODEL, HOUR_SECONDS)),
    ModelNotDownloadedError: Verdict(Reason.NOT_DOWNLOADED),
    ModelIntegrityError: Verdict(Reason.LOCAL_ERROR),
    # A device or a dtype that is not here shows when the local copy is loaded.
    ConfigError: Verdict(Reason.LOCAL_ERROR),
    InsufficientMemoryError: Verdict(Reason.INSUFFICIENT_MEMORY),
    EngineClosedError: Verdict(Reason.LOCAL_ERROR),
    LocalEngineError: Verdict(Reason.LOCAL_ERROR),
}

_TOO_LARGE = Verdict(Reason.TOO_LARGE)
_TRUNCATED = Verdict(Reason.BAD_RESPONSE, retry=Retry.JITTERED, counts_against=Scope.MODEL)
_UNSENT = Verdict(Reason.TIMEOUT, retry=Retry.JITTERED)
_FORBIDDEN = Verdict(Reason.MODEL_UNAVAILABLE, gate=Gate(Scope.MODEL, 300.0))
_UNKNOWN = Verdict(Reason.SERVER_ERROR, falls_back=False)


def verdict_for(error: HybridInferError) -> Verdict:
    """What follows from `error`: its own row of `VERDICTS`, or its nearest base class's.

    Three statuses share a class with milder company: 413 is a refusal of this body and says
    nothing about the remote's health; 403 is re-asked sooner than 404; a transport that broke
    mid-body (no status) is worth one more try, unlike a complete answer of the wrong shape. And what
    was never sent says nothing about anybody's health.
    """
    if error.status == 413:  # noqa: PLR2004 - HTTP: content too large
        return _TOO_LARGE
    if isinstance(error, ModelNotAvailableError) and error.status == 403:  # noqa: PLR2004 - HTTP
        return _FORBIDDEN
    if isinstance(error, APITimeoutError) and not error.was_sent:
        return _UNSENT
    if isinstance(error, RemoteProtocolError) and error.status is None:
        return _TRUNCATED
    for base in type(error).__mro__:
        if base in VERDICTS:
            return VERDICTS[base]
    return _UNKNOWN
