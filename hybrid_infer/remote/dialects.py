"""What each dialect says on the wire: one request and one response function apiece.

A new dialect is its name in `Dialect`, two functions here, and their row in the table below.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from hybrid_infer.datatypes.models import Dialect, RemoteSpec
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.errors import InvalidRequestError, ModelNotAvailableError
from hybrid_infer.remote.postings import Posting, posting

CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding reply in the shape that all dialects share.

    Attributes:
        rows: one list or array of numbers per text, in the texts' order; unchecked.
        prompt_tokens: what the reply counted, if it did.
    """

    rows: Any
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Speech:
    """One dialect.

    Attributes:
        request: from a request, and the name that the remote knows its model by, to a POST.
        response: from a reply's parsed JSON to the shape that all dialects share: OpenAI's
            ``chat.completion`` object, or `Embedded`. `ValueError` says what is wrong with it.
        embeds_only_by_default: the options of `EmbedRequest` that the dialect has no words for,
            so that only their default (true) can be asked of it.
    """

    request: Callable[[Request, str], Posting]
    response: Callable[[Request, Any], Any]
    embeds_only_by_default: tuple[str, ...] = ()


def refusal_of_option(remote: RemoteSpec, request: Request) -> InvalidRequestError | None:
    """Why `remote` cannot be asked: it could only ignore an option of `request`. None if it can.

    Ignoring it would answer in another embedding space, or hide that a text was cut.
    """
    if isinstance(request, ChatRequest):
        return None
    names = SPEECHES[remote.dialect].embeds_only_by_default
    option = next((name for name in names if not getattr(request, name)), None)
    if option is None:
        return None
    return InvalidRequestError(
        f"remote {remote.name!r} speaks the dialect {remote.dialect}, which cannot express "
        f"{option}=False",
        argument=option,
    )


def hf_router_request(request: Request, model_id: str) -> Posting:
    """Hugging Face's router: chat in OpenAI's shape, embeddings as a pipeline of hf-inference."""
    if isinstance(request, ChatRequest):
        return posting(CHAT_PATH, chat_document(request, model_id), streams=request.stream)
    model = quote(model_id, safe="/")
    path = f"/hf-inference/models/{model}/pipeline/feature-extraction"
    return posting(path, _features_document(request))


def hf_router_response(request: Request, document: Any) -> Any:
    """The router's own shapes are the shared ones."""
    return document if isinstance(request, ChatRequest) else Embedded(document)


def openai_request(request: Request, model_id: str) -> Posting:
    """OpenAI's API, as vLLM, TGI and this library's server have it.

    Source: https://platform.openai.com/docs/api-reference/embeddings/create
    """
    if isinstance(request, ChatRequest):
        return posting(CHAT_PATH, chat_document(request, model_id), streams=request.stream)
    # base64 is what OpenAI's own clients ask for: a third of the bytes, and no decimals to read.
    document = {"model": model_id, "input": _texts(request), "encoding_format": "base64"}
    return posting("/v1/embeddings", document)


def openai_response(request: Request, document: Any) -> Any:
    """Chat as it is; vectors in the order of their ``index``, from base64 or from numbers."""
    if isinstance(request, ChatRequest):
        return document
    if not isinstance(document, Mapping):
        raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - the table's contract
    entries, usage = document.get("data"), document.get("usage")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError("the answer has no list of data")
    indices = [entry.get("index", place) for place, entry in enumerate(entries)]
    if any(type(index) is not int for index in indices) or sorted(indices) != list(
        range(len(request.texts))
    ):
        raise ValueError(f"the indices of its vectors are not 0 to {len(request.texts) - 1}")
    rows: list[Any] = [None] * len(entries)
    for index, entry in zip(indices, entries, strict=True):
        rows[index] = _numbers(entry.get("embedding"))
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return Embedded(rows, tokens if type(tokens) is int and tokens >= 0 else None)


def tei_request(request: Request, model_id: str) -> Posting:
    """text-embeddings-inference's own ``/embed``; it serves one model, which it is not told.

    Source: https://huggingface.github.io/text-embeddings-inference/

    Raises:
        ModelNotAvailableError: it is a chat request.
    """
    if isinstance(request, ChatRequest):
        raise ModelNotAvailableError(f"text-embeddings-inference does not serve chat: {model_id}")
    return posting("/embed", _features_document(request))


def tei_response(request: Request, document: Any) -> Embedded:  # noqa: ARG001 - the table's signature
    """TEI's shape is the shared one: one list of numbers per text."""
    return Embedded(document)


SPEECHES: Mapping[Dialect, Speech] = {
    "hf-router": Speech(hf_router_request, hf_router_response),
    "openai": Speech(openai_request, openai_response, ("normalize", "truncate")),
    "tei": Speech(tei_request, tei_response),
}


def chat_document(request: ChatRequest, model_id: str) -> dict[str, Any]:
    """The body of a chat request in OpenAI's shape; options that are None stay out.

    ``top_k``, which OpenAI's API does not know, and whatever the caller passed through, go to
    the root, where Hugging Face's providers, vLLM and TGI look for them.
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


def _features_document(request: EmbedRequest) -> dict[str, Any]:
    """What feature extraction is asked on hf-inference and on TEI, which is behind it."""
    return {
        "inputs": _texts(request),
        "normalize": request.normalize,
        "truncate": request.truncate,
    }


def _texts(request: EmbedRequest) -> tuple[str, ...]:
    prompt = request.prompt
    return tuple(prompt + text for text in request.texts) if prompt else request.texts


def _numbers(embedding: Any) -> Any:
    """A vector of numbers, or of base64 over little-endian float32; servers may ignore which."""
    if not isinstance(embedding, str):
        return embedding
    data: bytes | None
    try:
        data = base64.b64decode(embedding, validate=True)
    except ValueError:
        data = None
    if data is None or len(data) % 4:
        raise ValueError("a vector is not base64 of 32-bit numbers")
    return np.frombuffer(data, dtype="<f4")
