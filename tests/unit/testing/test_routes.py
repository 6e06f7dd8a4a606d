import base64
import json

import numpy as np
import pytest
from huggingface_hub.hf_api import ModelInfo

from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.testing import ChatAnswer, FakeRemote, Reply

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PIPELINE = f"/hf-inference/models/{MINILM}/pipeline/feature-extraction"
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


def decoded(response):
    return json.loads(response.data)


def test_feature_extraction_shapes(client):
    flat = np.array(decoded(client.post(PIPELINE, {"inputs": "a"})))
    rows = np.array(decoded(client.post(PIPELINE, {"inputs": ["a", "b"]})))
    assert flat.shape == (384,)
    assert rows.shape == (2, 384)
    np.testing.assert_array_equal(flat, rows[0])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_normalize_and_truncate(client):
    raw = np.array(decoded(client.post(PIPELINE, {"inputs": "a", "normalize": False})))
    unit = np.array(decoded(client.post(PIPELINE, {"inputs": "a", "normalize": None})))
    assert np.linalg.norm(raw) > 2
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)
    long = "word " * 300
    assert client.post(PIPELINE, {"inputs": long}).status == 200
    refused = client.post(PIPELINE, {"inputs": long, "truncate": False})
    assert refused.status == 422
    assert "must have less than" in decoded(refused)["error"]


@pytest.mark.parametrize("path", [PIPELINE, "/embed"])
def test_more_than_32_inputs_are_refused_as_tei_does(client, path):
    assert client.post(path, {"inputs": ["a"] * 32}).status == 200
    refused = client.post(path, {"inputs": ["a"] * 33})
    assert refused.status == 422
    assert decoded(refused) == {
        "error": "batch size 33 > maximum allowed batch size 32",
        "error_type": "Validation",
    }


@pytest.mark.parametrize("inputs", [None, 5, [], [1], ["a", None], {"a": "b"}])
def test_inputs_of_another_shape(client, inputs):
    assert client.post(PIPELINE, {"inputs": inputs}).status == 422
    refused = client.post("/v1/embeddings", {"model": MINILM, "input": inputs})
    assert refused.status == 400
    assert decoded(refused)["error"]["param"] == "input"


def test_tei(client):
    rows = decoded(client.post("/embed", {"inputs": "a"}))
    assert np.array(rows).shape == (1, 384)
    assert decoded(client.post("/", {"inputs": ["a"]})) == rows
    info = decoded(client.send("GET", "/info"))
    assert info["model_id"] == MINILM
    assert info["max_client_batch_size"] == 32
    assert info["max_input_length"] == 256
    assert client.send("GET", "/health").data == b""


@pytest.mark.parametrize("prefix", ["", "/together"])
def test_openai_embeddings(client, prefix):
    body = {"model": MINILM, "input": ["a b", "c"]}
    floats = decoded(client.post(f"{prefix}/v1/embeddings", body))
    packed = decoded(client.post(f"{prefix}/v1/embeddings", {**body, "encoding_format": "base64"}))
    assert (floats["object"], floats["model"]) == ("list", MINILM)
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [item["index"] for item in packed["data"]] == [0, 1]
    for plain, item in zip(floats["data"], packed["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        np.testing.assert_array_equal(vector, np.array(plain["embedding"], np.float32))
    odd = client.post("/v1/embeddings", {**body, "encoding_format": "hex"})
    assert odd.status == 400


def test_models(client):
    listed = decoded(client.send("GET", "/v1/models"))
    assert {LLAMA, MINILM} <= {entry["id"] for entry in listed["data"]}


@pytest.mark.parametrize("path", ["/nope", "/v1/chat", "/api/models/org/none", "/api/models/x"])
def test_unknown_paths_are_json_404(client, path):
    response = client.send("GET", path)
    assert response.status == 404
    assert decoded(response)["error"]


def test_wrong_methods(client):
    response = client.send("GET", "/v1/chat/completions")
    assert (response.status, response.headers["allow"]) == (405, "POST")
    assert client.post("/health", {}).status == 405


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_json_object(client, body):
    response = client.post("/v1/chat/completions", body)
    assert response.status == 400
    assert decoded(response)["error"]


@pytest.mark.parametrize(
    ("model", "task", "mapped"),
    [
        (MINILM, "sentence-similarity", "feature-extraction"),
        ("tiny/all-MiniLM-L6-v2", "sentence-similarity", "feature-extraction"),
        (LLAMA, "text-generation", "conversational"),
    ],
)
def test_the_hub_entry_as_huggingface_hub_reads_it(fake, client, model, task, mapped):
    path = f"/api/models/{model}?expand=inferenceProviderMapping"
    info = ModelInfo(**decoded(client.send("GET", path)))
    assert (info.id, info.pipeline_tag) == (model, task)
    assert len(info.sha) == 40
    assert [(one.provider, one.status, one.task) for one in info.inference_provider_mapping] == [
        ("hf-inference", "live", mapped)
    ]
    assert fake.ledger[-1].query == "expand=inferenceProviderMapping"


def test_an_unknown_repository_is_named_so(client):
    response = client.send("GET", "/api/models/org/none")
    assert (response.status, response.headers["x-error-code"]) == (404, "RepoNotFound")


def test_chat_whole(client):
    for path in ("/v1/chat/completions", f"/hf-inference/models/{LLAMA}/v1/chat/completions"):
        body = {"model": f"{LLAMA}:fastest", "messages": [{"role": "user", "content": "a b c"}]}
        answer = decoded(client.post(path, {**body, "max_tokens": 2}))
        assert (answer["object"], answer["model"]) == ("chat.completion", LLAMA)
        assert answer["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a b"},
                "finish_reason": "length",
            }
        ]
        assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize("include_usage", [False, True])
def test_chat_stream_follows_the_sse_grammar(client, include_usage):
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    response = client.chat("a ü c", stream=True, **options)
    assert response.headers["content-type"] == "text/event-stream"
    *events, rest = response.data.decode().split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    *chunks, done = [event.removeprefix("data: ") for event in events]
    assert done == "[DONE]"
    chunks = [json.loads(chunk) for chunk in chunks]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    usages = [chunk for chunk in chunks if not chunk["choices"]]
    said = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert "".join(one["delta"].get("content", "") for one in said) == "a ü c"
    assert [one["finish_reason"] for one in said] == [None, None, None, "stop"]
    assert len(usages) == include_usage
    if include_usage:
        assert chunks[-1]["usage"]["total_tokens"] == 6


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": None}, 400),
        ({"messages": []}, 400),
        ({"messages": "hi"}, 400),
        ({"n": 2}, 422),
    ],
)
def test_chat_bodies_that_are_wrong(client, change, status):
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], **change}
    response = client.post("/v1/chat/completions", body)
    assert response.status == status
    assert decoded(response)["error"]["message"]


class Broken:
    """Answers that fail as they are told."""

    def __init__(self):
        self.error = None
        self.pieces = ()
        self.closed = 0

    def embed(self, model, texts, *, normalize, truncate):
        raise self.error

    def chat(self, model, body):
        try:
            yield from self.pieces
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1

    def close(self):
        raise AssertionError("answers that were given are the giver's to close")


@pytest.fixture
def broken():
    return Broken()


class TestAnswersThatFail:
    @pytest.fixture
    def fake(self, broken):
        with FakeRemote(broken) as remote:
            yield remote

    @pytest.mark.parametrize(
        ("error", "embed_status", "chat_status", "code"),
        [
            (InvalidRequestError("x", argument="model"), 404, 400, "model_not_supported"),
            (InvalidRequestError("x", argument="tools"), 422, 422, "invalid_value"),
            (ContextLengthError("too long"), 422, 400, "context_length_exceeded"),
        ],
    )
    def test_the_callers_mistakes(self, client, broken, error, embed_status, chat_status, code):
        broken.error = error
        assert client.post(PIPELINE, {"inputs": "a"}).status == embed_status
        for stream in (False, True):
            response = client.chat(stream=stream)
            assert response.status == chat_status
            assert decoded(response)["error"]["code"] == code

    def test_any_other_failure_is_a_500(self, client, broken):
        broken.error = ZeroDivisionError("zero")
        for response in (client.post(PIPELINE, {"inputs": "a"}), client.chat(stream=True)):
            assert response.status == 500
            assert "ZeroDivisionError" in decoded(response)["error"]["message"]

    def test_a_failure_in_a_stream_is_told_in_it(self, client, broken):
        broken.pieces, broken.error = ("one", "two"), ZeroDivisionError("zero")
        text = client.chat(stream=True).data.decode()
        assert text.count("data: ") == 3
        assert '"error":{"message":"ZeroDivisionError: zero"' in text
        assert "[DONE]" not in text

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_answer_may_come_whole(self, client, broken, monkeypatch, stream):
        answer = ChatAnswer(("a", " b"), "length", 3, 2)
        monkeypatch.setattr(broken, "chat", lambda model, body: answer)
        response = client.chat(stream=stream)
        assert b'"length"' in response.data
        if stream:
            assert response.data.count(b"data: ") == 4
        else:
            assert decoded(response)["choices"][0]["message"]["content"] == "a b"
            assert decoded(response)["usage"]["total_tokens"] == 5

    def test_a_missing_end_is_a_500(self, client, broken):
        broken.pieces = ("one",)
        response = client.chat()
        assert response.status == 500
        assert "ChatEnd" in decoded(response)["error"]["message"]

    def test_a_stream_that_is_cut_closes_the_answer(self, fake, client, broken, monkeypatch):
        class Pieces:  # no generator, which would close itself once nobody holds it
            def __iter__(self):
                return self

            def __next__(self):
                return "a"

            def close(self):
                broken.closed += 1

        monkeypatch.setattr(broken, "chat", lambda *_: Pieces())
        fake.enqueue(Reply(cut_after_events=1, clean_end=True))
        assert client.chat(stream=True).status == 200
        fake.wait_for(1, finished=True)
        fake.close()
        assert broken.closed == 1
