"""The tiny models behind the server give what they give when they are called directly."""

import json

import numpy as np
import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import EngineClosedError, InvalidRequestError
from hybrid_infer.local.backend import LocalBackend
from hybrid_infer.registry import load_registry
from hybrid_infer.settings import Settings
from hybrid_infer.testing import ChatEnd, FakeRemote, TinyAnswers

NAMES = ["sentence-transformers/all-MiniLM-L6-v2", "tiny/all-MiniLM-L6-v2", "embeddings/small"]
MESSAGES = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def answers():
    made = TinyAnswers()
    yield made
    made.close()


@pytest.fixture
def fake(answers):
    with FakeRemote(answers) as remote:
        yield remote


def test_vectors_are_the_local_ones(answers):
    spec = load_registry(profile="tiny", environ={}).resolve("embeddings", "small")
    backend = LocalBackend(settings=Settings(), device="cpu", dtype="float32")
    texts = ("a first text", "")
    local = backend.call(EmbedRequest(spec, texts), Deadline(60.0)).vectors
    backend.close()
    for name in NAMES:
        vectors = answers.embed(name, texts, normalize=True, truncate=True)
        np.testing.assert_allclose(vectors, local, atol=1e-6)


def test_over_the_wire(fake, client, answers):
    texts = ["one", "two words"]
    expected = answers.embed("small", texts, normalize=True, truncate=True)
    path = f"/hf-inference/models/{NAMES[0]}/pipeline/feature-extraction"
    received = np.array(json.loads(client.post(path, {"inputs": texts}).data), np.float32)
    np.testing.assert_allclose(received, expected, atol=1e-6)


def test_chat_streams_and_ends(fake, client, answers):
    options = {"max_tokens": 6, "temperature": 0}
    *pieces, end = answers.chat(
        "microsoft/Phi-3-mini-4k-instruct", {"messages": MESSAGES, **options}
    )
    assert isinstance(end, ChatEnd)
    body = {"model": "tiny/Phi-3-mini-4k-instruct", "messages": MESSAGES, **options}
    whole = json.loads(client.post("/v1/chat/completions", body).data)
    assert whole["choices"][0]["message"]["content"] == "".join(pieces)
    assert whole["choices"][0]["finish_reason"] == end.finish_reason
    assert whole["usage"]["completion_tokens"] == end.completion_tokens <= 6
    streamed = client.post("/v1/chat/completions", {**body, "stream": True}).data.decode()
    said = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in said)
    assert text == "".join(pieces)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": "org/unknown"}, "model"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages[0].role"),
    ],
)
def test_what_the_tiny_models_cannot_do_is_refused(fake, client, change, argument):
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 2, **change}
    response = client.post("/v1/chat/completions", body)
    assert response.status in (400, 422)
    assert json.loads(response.data)["error"]["param"] == argument


def test_options_that_ask_for_nothing_are_accepted(fake, client):
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 2, "n": 1, "user": "me"}
    assert client.post("/v1/chat/completions", body).status == 200


def test_an_over_long_prompt_is_the_callers_mistake(fake, client):
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 100_000}
    response = client.post("/v1/chat/completions", body)
    assert response.status == 400
    assert json.loads(response.data)["error"]["code"] == "context_length_exceeded"


def test_closed_answers_say_so():
    closed = TinyAnswers()
    closed.embed("small", ["a"], normalize=True, truncate=True)
    spec, backend = closed._served("embeddings", "small")
    closed.close()
    with pytest.raises(EngineClosedError):
        backend.call(EmbedRequest(spec, ("a",)), Deadline(60.0))
    with pytest.raises(EngineClosedError):
        closed.embed("small", ["a"], normalize=True, truncate=True)
    with pytest.raises(InvalidRequestError):
        closed.embed("org/unknown", ["a"], normalize=True, truncate=True)
