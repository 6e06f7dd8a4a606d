"""The paths of the three dialects and of the Hub, and what a healthy server answers on them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from hybrid_infer.errors import HybridInferError, InvalidRequestError
from hybrid_infer.testing.answers import Answers, ChatAnswer
from hybrid_infer.testing.messages import ReceivedRequest, Response

MAX_CLIENT_BATCH = 32  # text-embeddings-inference's own default

_CHAT = re.compile(r"(?:/hf-inference/models/(?P<model>[^?]+?))?/v1/chat/completions")
_FEATURES = re.compile(r"/hf-inference/models/(?P<model>[^?]+?)/pipeline/feature-extraction")
_HUB = re.compile(r"/api/models/(?P<model>[^?]+)")


def healthy_response(request: ReceivedRequest, answers: Answers) -> Response:
    """What a healthy server answers to `request`."""
    path = request.path.partition("?")[0]
    body = request.body_json
    try:
        if request.method == "GET":
            return _get(path)
        if not isinstance(body, dict):
            return Response.of_json({"error": "the body must be a JSON object"}, 400)
        return _post(path, body, answers)
    except InvalidRequestError as error:
        return Response.of_json({"error": error.message, "error_type": "Validation"}, 422)
    except HybridInferError as error:
        return Response.of_json({"error": f"{type(error).__name__}: {error.message}"}, 500)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return Response.of_json({"error": f"malformed request: {error}"}, 400)


def _get(path: str) -> Response:
    if hub := _HUB.fullmatch(path):
        return Response.of_json(_hub_entry(hub["model"]))
    if path == "/v1/models":
        return Response.of_json({"object": "list", "data": []})
    if path == "/info":
        info = {"model_id": "fake", "max_client_batch_size": MAX_CLIENT_BATCH}
        return Response.of_json(info)
    if path == "/health":
        return Response.of_json({})
    return Response.of_json({"error": "Not Found"}, 404)


def _post(path: str, body: Mapping[str, Any], answers: Answers) -> Response:
    if chat := _CHAT.fullmatch(path):
        return _chat(chat["model"] or body["model"], body, answers)
    if features := _FEATURES.fullmatch(path):
        return _features(features["model"], body, answers)
    if path == "/embed":
        return _features(str(body.get("model", "fake")), body, answers)
    if path == "/v1/embeddings":
        return _openai_embeddings(body, answers)
    return Response.of_json({"error": "Not Found"}, 404)


def _hub_entry(model: str) -> dict[str, Any]:
    embeds = any(word in model.lower() for word in ("minilm", "mpnet", "t5", "embed"))
    task = "feature-extraction" if embeds else "text-generation"
    provider = {
        "hf-inference": {
            "status": "live",
            "providerId": model,
            "task": task if embeds else "conversational",
        }
    }
    return {
        "id": model,
        "sha": "0" * 40,
        "pipeline_tag": task,
        "tags": [task],
        "inferenceProviderMapping": provider,
    }


def _features(model: str, body: Mapping[str, Any], answers: Answers) -> Response:
    inputs = body["inputs"]
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    if len(texts) > MAX_CLIENT_BATCH:
        message = f"batch size {len(texts)} > maximum allowed batch size {MAX_CLIENT_BATCH}"
        return Response.of_json({"error": message, "error_type": "Validation"}, 422)
    vectors = answers.embed(
        model,
        texts,
        normalize=bool(body.get("normalize", True)),
        truncate=bool(body.get("truncate", True)),
    )
    rows = vectors.tolist()
    return Response.of_json(rows[0] if isinstance(inputs, str) else rows)


def _openai_embeddings(body: Mapping[str, Any], answers: Answers) -> Response:
    given = body["input"]
    texts = [given] if isinstance(given, str) else list(given)
    vectors = answers.embed(str(body["model"]), texts, normalize=True, truncate=True)
    encoded = [
        base64.b64encode(row.astype("<f4").tobytes()).decode()
        if body.get("encoding_format") == "base64"
        else np.asarray(row).tolist()
        for row in vectors
    ]
    data = [{"object": "embedding", "index": i, "embedding": e} for i, e in enumerate(encoded)]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Response.of_json(
        {"object": "list", "data": data, "model": body["model"], "usage": usage}
    )


def _chat(model: str, body: Mapping[str, Any], answers: Answers) -> Response:
    answer = answers.chat(model, body)
    common = {"id": "chatcmpl-fake", "created": 1_700_000_000, "model": model}
    usage = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
    if body.get("stream"):
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return Response.of_events(_chunks(common, answer, usage if wants_usage else None))
    message = {"role": "assistant", "content": "".join(answer.pieces)}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return Response.of_json(
        {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
    )


def _chunks(
    common: Mapping[str, Any], answer: ChatAnswer, usage: Mapping[str, int] | None
) -> list[Any]:
    def chunk(delta: Mapping[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**common, "object": "chat.completion.chunk", "choices": [choice]}

    events: list[Any] = [chunk({"role": "assistant", "content": ""}, None)]
    events += [chunk({"content": piece}, None) for piece in answer.pieces]
    events.append(chunk({}, answer.finish_reason))
    if usage is not None:
        events.append({**common, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    return [*events, "[DONE]"]
