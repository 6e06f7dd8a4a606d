"""From an error to an HTTP answer in OpenAI's shape.

Source: https://platform.openai.com/docs/guides/error-codes; ``Retry-After`` is RFC 9110, 10.2.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hybrid_infer.errors import (
    AllTargetsFailedError,
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ContextLengthError,
    DeadlineExceededError,
    EmbeddingSpaceMismatchError,
    EngineClosedError,
    HybridInferError,
    InvalidRequestError,
    ModelLoadingError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteServerError,
    StreamInterruptedError,
)

LEAST_RETRY_SECONDS = 1  # the header knows whole seconds only, and 0 invites a storm
MOST_RETRY_SECONDS = 3600
_WAITS = (429, 503)


class RefusedError(Exception):
    """The server itself refuses a request, before any model is asked.

    Args:
        status: the HTTP status.
        message: what is wrong, in a sentence.
        code: OpenAI's machine-readable word for it.
        argument: the field at fault.
        retry_after: seconds after which the same request may be served.
        closes: whether the connection ends with the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        argument: str | None = None,
        retry_after: float | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.answer = ErrorAnswer(status, message, code, argument, retry_after)
        self.closes = closes


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as it goes over the wire."""

    status: int
    message: str
    code: str
    argument: str | None = None
    retry_after: float | None = None

    def document(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": _kind(self.status),
                "param": self.argument,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """``Retry-After``, wherever the status promises that waiting helps."""
        if self.status not in _WAITS:
            return {}
        seconds = min(math.ceil(self.retry_after or 0), MOST_RETRY_SECONDS)
        return {"retry-after": str(max(LEAST_RETRY_SECONDS, seconds))}


STOPPING = ErrorAnswer(503, "the server is stopping", "shutting_down")
TOO_MANY = ErrorAnswer(429, "the server is full: too many connections are open", "overloaded")
TOO_MUCH = ErrorAnswer(429, "too much waits in this connection for an answer", "overloaded")

# The first class that fits decides. A refusal of the upstream's key is not the client's 401.
_TABLE: tuple[tuple[type[HybridInferError], int, str], ...] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (InvalidRequestError, 400, "invalid_value"),
    (RateLimitError, 429, "rate_limit_exceeded"),
    (OverloadedError, 429, "overloaded"),
    (QuotaExceededError, 402, "quota_exceeded"),
    (ModelNotAvailableError, 404, "model_not_available"),
    (ModelNotDownloadedError, 404, "model_not_downloaded"),
    (ModelLoadingError, 503, "model_loading"),
    (APIConnectionError, 503, "connection_failed"),
    (EngineClosedError, 503, "shutting_down"),
    (AllTargetsFailedError, 503, "all_targets_failed"),
    (AuthenticationError, 502, "upstream_authentication"),
    (APITimeoutError, 504, "timeout"),
    (DeadlineExceededError, 504, "timeout"),
    (StreamInterruptedError, 502, "stream_interrupted"),
    (EmbeddingSpaceMismatchError, 502, "embedding_space_mismatch"),
    (RemoteServerError, 502, "upstream_error"),
)
_OTHERWISE = (500, "internal_error")


def answer_for(error: HybridInferError, *, texts_name: str = "input") -> ErrorAnswer:
    """The answer that stands for `error`.

    Args:
        error: what the client raised.
        texts_name: what the request calls its texts.
    """
    message = "; ".join([error.message, *getattr(error, "__notes__", ())])
    if isinstance(error, InvalidRequestError) and error.argument == "model":
        return ErrorAnswer(404, message, "model_not_found", "model")
    argument = getattr(error, "argument", None)
    if argument is not None and argument.startswith("texts"):
        argument = texts_name + argument.removeprefix("texts")
    rows = ((status, code) for kind, status, code in _TABLE if isinstance(error, kind))
    status, code = next(rows, _OTHERWISE)
    return ErrorAnswer(status, message, code, argument, error.retry_after)


def _kind(status: int) -> str:
    """OpenAI's ``type`` of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    if status in kinds:
        return kinds[status]
    return "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004 - HTTP
