"""From a checked body to an answer: one function for chat, one for vectors, whatever the path."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response

from hybrid_infer.client.streams import AsyncChatStream
from hybrid_infer.datatypes.chat import ChatCompletion
from hybrid_infer.datatypes.embeddings import Embeddings
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.server.answers import JSON, completion_document, route_headers
from hybrid_infer.server.bodies import read_body
from hybrid_infer.server.schemas import ChatBody, UnusedOptions
from hybrid_infer.server.service import service_of
from hybrid_infer.server.sse import ChatEvents
from hybrid_infer.server.work import UntilGone
from hybrid_infer.settings import ServerSettings

DEFAULT_MODEL = "default"
UNNAMED = "dummy"  # what huggingface_hub sends where its URL is to name the model

NO_IDS = (
    "input holds token ids. Which tokenizer made them is not known here, and ids of another "
    "model's give vectors that look right and are not: send texts. LangChain's OpenAIEmbeddings "
    "does with check_embedding_ctx_length=False"
)
_NOT_OPTIONS = {"messages", "model", "response_format", *UnusedOptions.model_fields}


async def answer_chat(request: Request, path_model: str | None = None) -> Response:
    """A chat completion, whole or as events.

    Args:
        request: its body is a `ChatBody`.
        path_model: the model that the path names; it wins over the body's.
    """
    service = service_of(request)
    limits = service.limits
    with ExitStack() as held:
        held.enter_context(service.admission.request())
        body = await read_body(request, ChatBody, limits)
        _check_messages(body.messages, limits)
        options = _chat_options(body, limits)
        model = _chat_model(body.model if path_model is None else path_model)
        with UntilGone(request.scope):
            result = await service.client.chat.completions.create(
                messages=body.messages, model=model, **options
            )
        if not body.stream:
            whole = cast("ChatCompletion", result)
            return Response(
                orjson.dumps(completion_document(whole)), 200, route_headers(whole.route), JSON
            )
        stream = cast("AsyncChatStream", result)
        headers = route_headers(stream.route)
        return ChatEvents(
            stream,
            held.pop_all(),
            wants_usage=bool((body.stream_options or {}).get("include_usage")),
            headers=headers,
            reader_seconds=limits.body_seconds,
        )


def _chat_model(name: str | None) -> str:
    if name is None or name == UNNAMED:
        return DEFAULT_MODEL
    return name.partition(":")[0]  # org/name:provider is the router's way to name a provider


def _chat_options(body: ChatBody, limits: ServerSettings) -> dict[str, Any]:
    """The client's options of a body's fields.

    Raises:
        InvalidRequestError: one asks for more than this server gives.
    """
    options = body.model_dump(exclude_none=True, exclude=_NOT_OPTIONS)
    bounds = {
        "max_tokens": limits.max_tokens,
        "max_completion_tokens": limits.max_tokens,
        "n": limits.max_choices,
    }
    for name, most in bounds.items():
        if options.get(name, 0) > most:
            raise InvalidRequestError(f"{name} must be at most {most} here", argument=name)
    if body.response_format is not None:
        options["response_format"] = body.response_format
    return options


def _check_messages(messages: list[dict[str, Any]], limits: ServerSettings) -> None:
    """Refuse what a message must not hold on a server: pictures, files and their URLs, and novels.

    Raises:
        InvalidRequestError: one holds it.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        where = f"messages[{index}].content"
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise InvalidRequestError(f"{where} may hold text only", argument=where)
            text = part.get("text")
            if isinstance(text, str) and len(text) > limits.max_text_characters:
                raise _too_long(text, where, limits)


def _too_long(text: str, where: str, limits: ServerSettings) -> InvalidRequestError:
    return InvalidRequestError(
        f"{where} has {len(text):,} characters; {limits.max_text_characters:,} are allowed",
        argument=where,
    )


async def embedded(
    request: Request, given: Any, model: str, *, normalize: bool = True, truncate: bool = True
) -> Embeddings:
    """The vectors of a request's texts.

    Args:
        request: stops the work when its client leaves.
        given: one text, or a list of them; or token ids.
        model: an alias or a Hub id.
        normalize: whether vectors have unit length.
        truncate: whether over-long texts are cut.

    Raises:
        InvalidRequestError: there are no texts, too many, or something else.
        RefusedError: 429, too much is waiting.
    """
    service = service_of(request)
    texts: Any = [given] if isinstance(given, str) else given
    if service.token_texts is not None and texts and not isinstance(texts[0], str):
        _check_number(1 if isinstance(texts[0], int) else len(texts), service.limits)
        texts = await asyncio.to_thread(service.token_texts, texts, model)
    _check_texts(texts, service.limits)
    with service.admission.waiting(len(texts)), UntilGone(request.scope):
        return await service.client.embed(texts, model, normalize, truncate)


def _check_number(number: int, limits: ServerSettings) -> None:
    if number > limits.max_texts:
        raise InvalidRequestError(
            f"there are {number:,} texts; {limits.max_texts:,} are allowed", argument="texts"
        )


def _check_texts(texts: list[Any], limits: ServerSettings) -> None:
    if not texts:
        raise InvalidRequestError("there is no text", argument="texts")
    if not isinstance(texts[0], str):
        raise InvalidRequestError(NO_IDS, argument="texts")
    _check_number(len(texts), limits)
    for index, text in enumerate(texts):
        if len(text) > limits.max_text_characters:
            raise _too_long(text, f"texts[{index}]", limits)
