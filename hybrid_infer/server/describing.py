"""The OpenAPI description: what each path takes and gives. Nothing here runs with a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path
from pydantic import BaseModel, Field

from hybrid_infer.server.schemas import MODEL_HELP, Body


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetail


class Function(BaseModel):
    """A called function; its arguments are JSON."""

    name: str
    arguments: str


class Call(BaseModel):
    """A tool call."""

    id: str | None
    type: str
    function: Function


class Message(BaseModel):
    """An answer."""

    role: str
    content: str | None
    tool_calls: list[Call] = Field(default_factory=list)


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: Message
    finish_reason: str
    logprobs: Any = None


class Usage(BaseModel):
    """Token counts; null where the backend does not say."""

    prompt_tokens: int | None
    completion_tokens: int | None = None
    total_tokens: int | None


class ChatAnswer(BaseModel):
    """A chat completion."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class EmbeddingItem(BaseModel):
    """One vector: numbers, or base64 of little-endian float32."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """Vectors in the order of the texts."""

    object: str
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class ModelAnswer(BaseModel):
    """An alias, and the repository behind it."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str


class ModelsAnswer(BaseModel):
    """Every alias."""

    object: str
    data: list[ModelAnswer]


class InfoAnswer(BaseModel):
    """What serves ``/embed``."""

    model_id: str
    model_sha: str | None
    model_type: dict[str, Any]
    max_input_length: int | None
    max_client_batch_size: int
    max_concurrent_requests: int
    auto_truncate: bool
    version: str


class HealthAnswer(BaseModel):
    """All is well."""

    status: str


class StatusAnswer(BaseModel):
    """The state of the server; see docs/server.md."""

    version: str
    started_at: float
    policy: str
    remotes: dict[str, Any]
    models: list[dict[str, Any]]
    requests_in_progress: int
    texts_waiting: int
    most_texts_waiting: int
    refused: int
    recent: dict[str, Any]


VectorsAnswer = list[list[float] | str]
FeaturesAnswer = list[float] | VectorsAnswer | str

ModelInPath = Annotated[str, Path(description=MODEL_HELP, min_length=1)]

_Answers = dict[int | str, dict[str, Any]]

_REFUSALS = {
    400: "A field is wrong or unknown.",
    401: "The key is missing or wrong.",
    403: "The Host or Origin header is another site's.",
    404: "There is no such model or path.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too much is in progress; see Retry-After.",
    503: "Not now; see Retry-After.",
}


class DescribedApp(FastAPI):
    """An application whose description says that the gate before it asks for a key."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description."""
        document = super().openapi()
        schemes = document.setdefault("components", {})
        schemes["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        return document


def answers(kind: Any, *, stream: bool = False) -> _Answers:
    """The answers of a path.

    Args:
        kind: what a successful one holds; None: no JSON.
        stream: whether it may be a stream of events.
    """
    good: dict[str, Any] = {"description": "The answer."}
    if kind is not None:
        good["model"] = kind
    if stream:
        good["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    refusals: _Answers = {
        status: {"model": ErrorBody, "description": about} for status, about in _REFUSALS.items()
    }
    otherwise = {"model": ErrorBody, "description": "Any other failure."}
    return {200: good, **refusals, "default": otherwise}


def body(kind: type[Body]) -> dict[str, Any]:
    """A path's JSON body."""
    schema = kind.model_json_schema()
    for name, definition in schema.pop("$defs", {}).items():
        schema = _inlined(schema, f"#/$defs/{name}", definition)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inlined(value: Any, reference: str, definition: Any) -> Any:
    """`value` with a definition in the place of each reference to it."""
    if isinstance(value, dict):
        if value.get("$ref") == reference:
            return definition
        return {key: _inlined(item, reference, definition) for key, item in value.items()}
    if isinstance(value, list):
        return [_inlined(item, reference, definition) for item in value]
    return value
