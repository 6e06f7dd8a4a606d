"""What each dialect says on the wire: one request and one response function apiece."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hybrid_infer.datatypes.models import Dialect, RemoteSpec
from hybrid_infer.datatypes.requests import ChatRequest, Request
from hybrid_infer.errors import ConfigError, InvalidRequestError
from hybrid_infer.remote.wire import Posting


@dataclass(frozen=True, slots=True)
class Speech:
    """One dialect.

    Attributes:
        request: from a request, and the name that the remote knows its model by, to a POST.
        response: from a reply's parsed JSON to the shape that all dialects share: OpenAI's
            ``chat.completion`` object, or one list of numbers per text.
    """

    request: Callable[[Request, str], Posting]
    response: Callable[[Request, Any], Any]


def speech_of(remote: RemoteSpec) -> Speech:
    """The functions that speak to `remote`.

    Raises:
        ConfigError: this version does not support the remote's dialect.
    """
    speech = _SPEECHES.get(remote.dialect)
    if speech is None:
        raise ConfigError(
            f"remote {remote.name!r}: dialect {remote.dialect!r} is not supported by this "
            f"version; supported: {', '.join(sorted(_SPEECHES))}"
        )
    return speech


def hf_router_request(request: Request, model_id: str) -> Posting:
    """Hugging Face's router: chat in OpenAI's shape, embeddings as a pipeline of hf-inference."""
    if isinstance(request, ChatRequest):
        body = encoded(chat_document(request, model_id))
        return Posting("/v1/chat/completions", body, streams=request.stream)
    prompt = request.spec.prompt
    document = {
        "inputs": [prompt + text for text in request.texts] if prompt else request.texts,
        "normalize": request.normalize,
        "truncate": request.truncate,
    }
    model = quote(model_id, safe="/")
    return Posting(f"/hf-inference/models/{model}/pipeline/feature-extraction", encoded(document))


def hf_router_response(request: Request, document: Any) -> Any:  # noqa: ARG001 - the table's signature
    """The router's own shapes are the shared ones."""
    return document


_SPEECHES: dict[Dialect, Speech] = {"hf-router": Speech(hf_router_request, hf_router_response)}


def chat_document(request: ChatRequest, model_id: str) -> dict[str, Any]:
    """The body of a chat request in OpenAI's shape; options that are None stay out.

    ``top_k``, which OpenAI's API does not know, and whatever the caller passed through, go to
    the root, where Hugging Face's providers look for them.
    """
    options = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "top_k": request.top_k,
        "stream_options": {"include_usage": True} if request.include_usage else None,
    }
    return {
        **request.passthrough,
        "model": model_id,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        **{name: value for name, value in options.items() if value is not None},
        "stream": request.stream,
    }


def encoded(document: Mapping[str, Any]) -> bytes:
    """`document` as compact JSON in UTF-8.

    Raises:
        InvalidRequestError: an option holds something that JSON cannot.
    """
    body: bytes | None
    try:
        text = json.dumps(
            document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
        body = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        body = None
    if body is None:
        raise InvalidRequestError("an option holds a value that cannot be sent as JSON")
    return body


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError
