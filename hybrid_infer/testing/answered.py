"""A response before it goes on the wire, and the bodies that refusals have at Hugging Face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from hybrid_infer.testing.sse import compact

JSON_TYPE = ("content-type", "application/json")

# In the words of the live services, where those are known.
_ERRORS = {
    401: "Invalid username or password.",
    402: "You have exceeded your monthly included credits for Inference Providers. "
    "Subscribe to PRO to get 20x more monthly included credits.",
    403: "This authentication method does not have sufficient permissions to call Inference "
    "Providers on behalf of this user",
    429: "Rate limit reached. Please log in or use a HF access token",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        status: the HTTP status.
        headers: in order, without framing.
        body: the bytes of a body, of no meaning where there are `events`.
        events: the events of a stream, one by one.
        abandon: called once nothing more will be read from `events`.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    events: AsyncIterator[bytes] | None = None
    abandon: Callable[[], object] = bool


def json_answer(content: Any, status: int = 200) -> Answer:
    """A JSON body."""
    return Answer(status, (JSON_TYPE,), compact(content).encode(errors="surrogatepass"))


def stream_answer(events: AsyncIterator[bytes], abandon: Callable[[], object] = bool) -> Answer:
    """A stream of server-sent events."""
    headers = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
    return Answer(200, headers, events=events, abandon=abandon)


def refusal_answer(status: int) -> Answer:
    """The error that Hugging Face sends with `status`; below 400 nothing but the status."""
    if status < 400:  # noqa: PLR2004 - HTTP: redirects and 204 have no error to tell
        return Answer(status)
    if status not in _ERRORS:
        try:
            return json_answer({"error": HTTPStatus(status).phrase}, status)
        except ValueError:
            return json_answer({"error": f"status {status}"}, status)
    return json_answer({"error": _ERRORS[status]}, status)


def tei_error(message: str, kind: str, status: int) -> Answer:
    """An error of text-embeddings-inference."""
    return json_answer({"error": message, "error_type": kind}, status)


def openai_error(message: str, *, code: str, param: str | None = None, status: int = 400) -> Answer:
    """An error of Hugging Face's router and of OpenAI's API."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return json_answer({"error": error}, status)


def failure(error: BaseException) -> dict[str, Any]:
    """What a server says when its own answers fail."""
    return {"message": f"{type(error).__name__}: {error}", "type": "server_error", "code": 500}
