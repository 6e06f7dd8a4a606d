"""What a healthy server answers to requests for vectors, in the shapes of all dialects."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.testing.answered import Answer, json_answer, openai_error, tei_error
from hybrid_infer.testing.answers import Answers
from hybrid_infer.testing.workers import Workers

MAX_CLIENT_BATCH = 32  # the default of text-embeddings-inference
MAX_OPENAI_BATCH = 2048

_NOT_TEXT = "Failed to deserialize the JSON body into the target type: `inputs` must be a string or a non-empty list of strings"


async def features(
    model: str, body: Mapping[str, Any], answers: Answers, workers: Workers, *, flat_for_one: bool
) -> Answer:
    """Hugging Face's feature-extraction pipeline, and TEI's ``/embed``.

    Args:
        model: whose vectors are asked for.
        body: ``inputs``, ``normalize`` (default true), ``truncate`` (default true).
        answers: what is said.
        workers: where it is computed.
        flat_for_one: whether a text that is not in a list is answered with one flat list, as
            the pipeline does and ``/embed`` does not.
    """
    inputs = body.get("inputs")
    texts = _texts(inputs)
    problem = _problem(texts)
    if problem is not None:
        return tei_error(problem, "Validation", 422)
    normalize, truncate = body.get("normalize"), body.get("truncate")
    try:
        vectors = await _vectors(
            model,
            texts,
            answers,
            workers,
            normalize=normalize is not False,
            truncate=truncate is not False,
        )
    except ContextLengthError as error:
        problem = f"Input validation error: `inputs` must have less than allowed: {error.message}"
        return tei_error(problem, "Validation", 422)
    except InvalidRequestError as error:
        if error.argument == "model":
            return json_answer({"error": f"Model {model} does not exist"}, 404)
        return tei_error(error.message, "Validation", 422)
    rows = vectors.tolist()
    return json_answer(rows[0] if flat_for_one and isinstance(inputs, str) else rows)


async def openai_embeddings(body: Mapping[str, Any], answers: Answers, workers: Workers) -> Answer:
    """OpenAI's ``/v1/embeddings``; tokens are counted as words."""
    model, given = body.get("model"), body.get("input")
    texts = _texts(given)
    encoding = body.get("encoding_format") or "float"
    if not isinstance(model, str) or not model:
        return openai_error("you must provide a model parameter", code="missing", param="model")
    if not 1 <= len(texts) <= MAX_OPENAI_BATCH:
        problem = f"'input' must be a string or a list of 1 to {MAX_OPENAI_BATCH} strings"
        return openai_error(problem, code="invalid_input", param="input")
    if encoding not in ("float", "base64"):
        problem = "'encoding_format' must be 'float' or 'base64'"
        return openai_error(problem, code="invalid_value", param="encoding_format")
    try:
        vectors = await _vectors(model, texts, answers, workers, normalize=True, truncate=True)
    except InvalidRequestError as error:
        code = "model_not_found" if error.argument == "model" else "invalid_input"
        status = 404 if error.argument == "model" else 400
        return openai_error(error.message, code=code, param=error.argument, status=status)
    rows = vectors.tolist() if encoding == "float" else [_base64(row) for row in vectors]
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data, "model": model, "usage": usage})


async def _vectors(
    model: str,
    texts: list[str],
    answers: Answers,
    workers: Workers,
    *,
    normalize: bool,
    truncate: bool,
) -> NDArray[np.float32]:
    def compute() -> NDArray[np.float32]:
        return np.asarray(
            answers.embed(model, texts, normalize=normalize, truncate=truncate), np.float32
        )

    return await workers.run(compute)


def _texts(given: Any) -> list[str]:
    """The texts of a string or of a list of strings; none of anything else."""
    texts = [given] if isinstance(given, str) else given
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    return texts if is_list else []


def _problem(texts: list[str]) -> str | None:
    if not texts:
        return _NOT_TEXT
    if len(texts) > MAX_CLIENT_BATCH:
        return f"batch size {len(texts)} > maximum allowed batch size {MAX_CLIENT_BATCH}"
    return None


def _base64(row: NDArray[np.float32]) -> str:
    """Little-endian float32, as OpenAI's API packs it."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
