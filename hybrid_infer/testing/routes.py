"""The paths of the three dialects and of the Hub, and which answer a healthy server gives there."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.testing import chat_routes, embedding_routes
from hybrid_infer.testing.answered import Answer, json_answer
from hybrid_infer.testing.answers import Answers
from hybrid_infer.testing.catalogue import find_model, is_twin, known_models
from hybrid_infer.testing.messages import ReceivedRequest
from hybrid_infer.testing.workers import Workers

_PROVIDER = r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?"
_HF_MODEL = r"/hf-inference/models/(?P<model>.+)"


@dataclass(frozen=True, slots=True)
class Healthy:
    """What healthy answers are made from.

    Attributes:
        answers: what is said.
        workers: where it is computed.
        api_key: the key to ask for, or None.
        embedding_model: the one model of the dialect that names none (TEI).
    """

    answers: Answers
    workers: Workers
    api_key: str | None
    embedding_model: str


async def healthy_answer(request: ReceivedRequest, healthy: Healthy) -> Answer:
    """What a healthy server answers to `request`."""
    if request.path != "/health" and not _is_authorised(request, healthy.api_key):
        return json_answer({"error": "Invalid username or password."}, 401)
    found = _route(request.path)
    if found is None:
        return json_answer({"error": "Not Found"}, 404)
    name, method, model = found
    if request.method not in (method, "HEAD" if method == "GET" else method):
        answer = json_answer({"error": "Method Not Allowed"}, 405)
        return Answer(405, (*answer.headers, ("allow", method)), answer.body)
    if method == "GET":
        return await healthy.workers.run(_page, name, model, healthy)
    body = request.body_json
    if not isinstance(body, dict):
        what = "not valid JSON" if body is None else "not a JSON object"
        return json_answer({"error": f"Failed to parse the request body: {what}"}, 400)
    return await _posted(name, model, body, healthy)


def _is_authorised(request: ReceivedRequest, api_key: str | None) -> bool:
    if api_key is None:
        return True
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode())


_ROUTES = (
    ("hf-chat", "POST", re.compile(_HF_MODEL + r"/v1/chat/completions")),
    ("hf-embed", "POST", re.compile(_HF_MODEL + r"/pipeline/feature-extraction")),
    ("chat", "POST", re.compile(_PROVIDER + r"/v1/chat/completions")),
    ("embeddings", "POST", re.compile(_PROVIDER + r"/v1/embeddings")),
    ("tei-embed", "POST", re.compile(r"/embed|/")),
    ("models", "GET", re.compile(_PROVIDER + r"/v1/models")),
    ("info", "GET", re.compile(r"/info")),
    ("health", "GET", re.compile(r"/health")),
    ("hub", "GET", re.compile(r"/api/models/(?P<model>.+)")),
)


def _route(path: str) -> tuple[str, str, str | None] | None:
    for name, method, pattern in _ROUTES:
        match = pattern.fullmatch(path)
        if match:
            return name, method, match.groupdict().get("model")
    return None


async def _posted(
    name: str, model: str | None, body: Mapping[str, Any], healthy: Healthy
) -> Answer:
    answers, workers = healthy.answers, healthy.workers
    if name in ("chat", "hf-chat"):
        return await chat_routes.chat(model, body, answers, workers)
    if name == "embeddings":
        return await embedding_routes.openai_embeddings(body, answers, workers)
    is_flat = name == "hf-embed"
    return await embedding_routes.features(
        model or healthy.embedding_model, body, answers, workers, flat_for_one=is_flat
    )


def _page(name: str, model: str | None, healthy: Healthy) -> Answer:
    if name == "hub":
        spec = find_model(model or "")
        if spec is None or model is None:
            missing = json_answer({"error": "Repository not found"}, 404)
            code = ("x-error-code", "RepoNotFound")
            return Answer(404, (*missing.headers, code), missing.body)
        return json_answer(_hub_entry(model, spec))
    if name == "models":
        listed = dict.fromkeys(spec.repo for spec in known_models())
        entries = [
            {"id": repo, "object": "model", "created": 0, "owned_by": repo.partition("/")[0]}
            for repo in listed
        ]
        return json_answer({"object": "list", "data": entries})
    if name == "info":
        return json_answer(_tei_info(healthy.embedding_model))
    return Answer()


def _hub_entry(model: str, spec: ModelSpec) -> dict[str, Any]:
    """The Hub's description of a model, as ``huggingface_hub.HfApi.model_info`` reads it."""
    from hybrid_infer.registry import TINY_REVISION

    is_chat = spec.task == "chat"
    served_as = "conversational" if is_chat else "feature-extraction"
    return {
        "_id": "000000000000000000000000",
        "id": model,
        "modelId": model,
        "sha": TINY_REVISION if is_twin(model) else spec.revision,
        "private": False,
        "gated": "manual" if spec.gated and not is_twin(model) else False,
        "pipeline_tag": "text-generation" if is_chat else "sentence-similarity",
        "library_name": "transformers" if is_chat else "sentence-transformers",
        "tags": ["text-generation", "conversational"]
        if is_chat
        else ["sentence-transformers", "feature-extraction", "sentence-similarity"],
        "inference": "warm",
        "inferenceProviderMapping": {
            "hf-inference": {"status": "live", "providerId": model, "task": served_as}
        },
        "siblings": [],
    }


def _tei_info(model: str) -> dict[str, Any]:
    """``/info`` of text-embeddings-inference."""
    spec = find_model(model, "embeddings")
    return {
        "model_id": model,
        "model_sha": spec.revision if spec else None,
        "model_dtype": "float32",
        "model_type": {"embedding": {"pooling": (spec.pooling if spec else None) or "mean"}},
        "max_concurrent_requests": 512,
        "max_input_length": (spec.max_seq_length if spec else None) or 512,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": embedding_routes.MAX_CLIENT_BATCH,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": "1.8.0",
    }
