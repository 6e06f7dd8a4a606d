"""From a refusal to one typed error: the table of statuses, and what error bodies look like."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_infer.errors import (
    APITimeoutError,
    AuthenticationError,
    ContextLengthError,
    HybridInferError,
    InvalidRequestError,
    ModelLoadingError,
    ModelNotAvailableError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
)
from hybrid_infer.registry.urls import TOKENS_PAGE
from hybrid_infer.remote.header_values import Headers
from hybrid_infer.remote.keys import MASK, Secret, redact
from hybrid_infer.remote.waits import wait_seconds

MAX_NOTICE_CHARS = 300
TOO_LARGE = 413
BAD_INPUT = 422

_SHORTEST_ECHO = 12  # shorter texts are ordinary words, which an error message may use
_LONGEST_ECHO = 40
_CONTEXT_LENGTH = re.compile(
    r"context[ _]length|context window|context size|must have less than|"
    r"`max_new_tokens` must be <=|too many tokens|maximum (?:model|sequence) length|"
    r"(?:prompt|input) is too long|max_model_len",
    re.IGNORECASE,
)
_BATCH_TOO_LARGE = re.compile(
    r"batch size .{0,40}> ?maximum|maximum .{0,40}batch size", re.IGNORECASE
)
_MODEL_NOT_SUPPORTED = re.compile(r"not supported by (?:any )?provider", re.IGNORECASE)
_LOADING = re.compile(
    r"\bloading\b|scaled to (?:zero|0)\b|scaling (?:up|from)|initiali[sz]ing|warming up",
    re.IGNORECASE,
)
_DEDICATED_HOSTS = ".endpoints.huggingface.cloud"
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")
_STATUS_KEYS = ("http_status_code", "status_code", "status", "code")
_STATUS_OF_TYPE = {"validation": 422, "tokenizer": 422, "overloaded": 429, "backend": 424}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an error message may name, and what it must not.

    Attributes:
        host: the remote.
        repo: the model asked for.
        key: never shown.
        texts: the caller's own; never shown.
    """

    host: str
    repo: str
    key: Secret | None = None
    texts: tuple[str, ...] = field(default=(), repr=False)

    def shown(self, text: str) -> str:
        """`text` on one line, short, without the key and without the caller's texts."""
        text = redact(text, self.key)
        for private in self.texts:
            if len(private) >= _SHORTEST_ECHO and private[:_LONGEST_ECHO] in text:
                text = text.replace(private, MASK).replace(private[:_LONGEST_ECHO], MASK)
        return _SPACE.sub(" ", text).strip()[:MAX_NOTICE_CHARS]


@dataclass(frozen=True, slots=True)
class Notice:
    """What an error body says. Every field may be empty."""

    message: str = ""
    code: str = ""
    kind: str = ""
    document: Any = None

    @property
    def is_about_context(self) -> bool:
        """Whether the text or prompt was too long for the model."""
        return _CONTEXT_LENGTH.search(f"{self.code} {self.message}") is not None

    @property
    def is_about_model(self) -> bool:
        """Whether no provider behind the remote serves the model."""
        is_named = "model_not_supported" in (self.code, self.kind)
        return is_named or _MODEL_NOT_SUPPORTED.search(self.message) is not None

    @property
    def is_about_batch(self) -> bool:
        """Whether too many texts came at once."""
        return _BATCH_TOO_LARGE.search(self.message) is not None


def parsed(body: bytes) -> tuple[bool, Any]:
    """Whether `body` is JSON, and what it holds. Never raises."""
    try:
        return True, json.loads(body)
    except (ValueError, RecursionError):
        return False, None


def notice_of(body: bytes) -> Notice:
    """What an error body of any shape says. Never raises."""
    is_json, document = parsed(body)
    if is_json:
        return notice_in(document)
    text = body.decode("utf-8", errors="replace").strip()
    return Notice() if text.startswith("<") else Notice(message=text)


def notice_in(document: Any) -> Notice:
    """`notice_of`, for a body that is parsed already."""
    if not isinstance(document, Mapping):
        return Notice(message=_joined(document), document=document)
    error = document.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, Mapping) else document
    shown = error if isinstance(error, str | list) else None
    for key in ("message", "detail", "error"):
        shown = shown or inner.get(key) or document.get(key)
    return Notice(
        message=_joined(shown),
        code=_word(inner.get("code")),
        kind=_word(document.get("error_type") or inner.get("type") or inner.get("error_type")),
        document=document,
    )


def refusal(status: int, headers: Headers, body: bytes, asked: Asked) -> HybridInferError:
    """The error behind a status other than 2xx.

    Args:
        status: the HTTP status.
        headers: may name a wait.
        body: of any shape, possibly cut.
        asked: what the request was.
    """
    notice = notice_of(body)
    return _typed(status, notice, wait_seconds(headers, notice.document), asked)


def refusal_in_stream(document: Any, asked: Asked) -> HybridInferError:
    """The error that an event of a stream holds, by the same table."""
    notice = notice_in(document)
    status = _status_in(document) or _STATUS_OF_TYPE.get(notice.kind.lower())
    wait = wait_seconds([], document)
    if status is None:
        return RemoteServerError(_message(None, notice, asked), retry_after=wait)
    return _typed(status, notice, wait, asked)


Builder = Callable[[str, float | None], HybridInferError]

_BY_STATUS: dict[int, Builder] = {
    400: lambda message, _: InvalidRequestError(message),
    402: lambda message, _: QuotaExceededError(message),
    404: lambda message, _: ModelNotAvailableError(message),
    408: lambda message, wait: APITimeoutError(message, retry_after=wait),
    410: lambda message, _: ModelNotAvailableError(message),
    422: lambda message, _: InvalidRequestError(message),
    429: lambda message, wait: RateLimitError(message, retry_after=wait),
    504: lambda message, wait: APITimeoutError(message, retry_after=wait),
}


def _typed(status: int, notice: Notice, wait: float | None, asked: Asked) -> HybridInferError:
    message = _message(status, notice, asked)
    error = _special(status, notice, wait, message, asked)
    if error is None:
        if status in _BY_STATUS:
            error = _BY_STATUS[status](message, wait)
        elif status < 400:  # noqa: PLR2004 - HTTP: 3xx and what is no answer
            error = RemoteProtocolError(f"{message} (redirects are not followed)")
        else:
            error = RemoteServerError(message, retry_after=wait)
    if error.status is None:
        error.status = status
    return error


def _special(
    status: int, notice: Notice, wait: float | None, message: str, asked: Asked
) -> HybridInferError | None:
    """The statuses whose body, or whose advice, matters."""
    error: HybridInferError | None = None
    match status:
        case 400 | 413 | 422 if notice.is_about_batch:
            error = RemoteServerError(message, status=TOO_LARGE)
        case 400 | 413 | 422 if notice.is_about_context:
            error = ContextLengthError(message)
        case 413 if notice.kind.lower() == "validation":
            error = InvalidRequestError(message)
            error.status = BAD_INPUT  # as newer TEI answers; 413 means a body that may be split
        case 400 | 422 if notice.is_about_model:
            error = ModelNotAvailableError(message)
        case 401:
            error = AuthenticationError(
                f"{message}; check the API key (Hugging Face's: {TOKENS_PAGE})"
            )
        case 403:
            error = ModelNotAvailableError(
                f"{message}; if the model is gated, accept its licence at "
                f"https://huggingface.co/{asked.repo}"
            )
        case 429 if "insufficient_quota" in (notice.code, notice.kind):  # OpenAI's 402
            error = QuotaExceededError(message)
        case 429 if notice.kind.lower() == "overloaded":
            error = OverloadedError(message, retry_after=wait)
        case 503 if _is_loading(notice) or _is_asleep(notice, asked.host):
            error = ModelLoadingError(message, retry_after=wait)
    return error


def _is_loading(notice: Notice) -> bool:
    document = notice.document
    estimates = isinstance(document, Mapping) and "estimated_time" in document
    return estimates or _LOADING.search(notice.message) is not None


def _is_asleep(notice: Notice, host: str) -> bool:
    """Whether a dedicated endpoint is scaled to zero.

    Its proxy answers 503, without a word of its own, until a replica is ready:
    https://huggingface.co/docs/inference-endpoints/guides/autoscaling. A replica that is there
    and unwell says ``Unhealthy``.
    """
    hostname = host.partition(":")[0].lower()
    return hostname.endswith(_DEDICATED_HOSTS) and notice.kind.lower() != "unhealthy"


def _message(status: int | None, notice: Notice, asked: Asked) -> str:
    said = asked.shown(notice.message)
    where = f"{asked.host}: {asked.repo}: " + (f"HTTP {status}" if status else "the stream failed")
    return f"{where}: {said}" if said else where


def _status_in(document: Any) -> int | None:
    """The HTTP status that an error event repeats, if it does."""
    if not isinstance(document, Mapping):
        return None
    error = document.get("error")
    for holder in (error, document):
        if not isinstance(holder, Mapping):
            continue
        for key in _STATUS_KEYS:
            word = _word(holder.get(key))
            if len(word) == 3 and word.isascii() and word.isdigit() and word[0] in "45":  # noqa: PLR2004 - digits of a status
                return int(word)
    return None


def _word(value: Any) -> str:
    """A code or type as text; empty for anything else."""
    if isinstance(value, str):
        return value[:100]
    is_code = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1000  # noqa: PLR2004 - HTTP codes are smaller
    return str(value) if is_code else ""


def _joined(value: Any) -> str:
    """The text in a message of any shape, without what a validator repeats of the input."""
    if isinstance(value, list):
        said = (_joined(item) for item in value[:5] if isinstance(item, str | Mapping))
        return "; ".join(filter(None, said))
    if isinstance(value, Mapping):
        value = value.get("message") or value.get("msg") or value.get("error")
    return value if isinstance(value, str) else ""
