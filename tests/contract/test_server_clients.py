"""Other people's clients against a real server process, each by changing its URL only."""

import asyncio
import base64
import json
import shutil
import subprocess

import numpy as np
import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient

from hybrid_infer import HybridClient

TEXTS = ["The weather is lovely today.", "$& costs $$5", "Ünïcödé 漢字 🙂", "WORD " * 600, ""]
PROMPT = [{"role": "user", "content": "Tell me about low latency."}]
GREEDY = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def local():
    with HybridClient(profile="tiny", policy="local-only", dtype="float32") as client:
        yield client


@pytest.fixture(scope="module")
def said(local):
    return local.chat_completion(PROMPT, "small", **GREEDY)


@pytest.fixture
def ai(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


def same(vectors, expected):
    np.testing.assert_allclose(np.asarray(vectors, np.float32), expected.vectors, atol=2e-6)


class TestOpenAI:
    @pytest.mark.parametrize("encoding", [None, "float", "base64"])
    @pytest.mark.parametrize("model", ["small", "embeddings/small", "tiny/all-MiniLM-L6-v2"])
    def test_embeddings(self, ai, local, model, encoding):
        options = {} if encoding is None else {"encoding_format": encoding}
        answer = ai.embeddings.create(input=TEXTS, model=model, **options)
        assert [item.index for item in answer.data] == list(range(len(TEXTS)))
        vectors = [item.embedding for item in answer.data]
        if encoding == "base64":
            vectors = [np.frombuffer(base64.b64decode(v), "<f4") for v in vectors]
        expected = local.embed(TEXTS, "small")
        same(vectors, expected)
        assert answer.model == "tiny/all-MiniLM-L6-v2"
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens

    def test_one_text_and_two_thousand(self, ai, local):
        texts = [f"text {number}" for number in range(2048)]
        answer = ai.embeddings.create(input=texts, model="small", dimensions=384)
        same([item.embedding for item in answer.data], local.embed(texts, "small"))
        answer = ai.embeddings.create(input="one", model="large")
        same([answer.data[0].embedding], local.embed("one", "large"))

    @pytest.mark.parametrize(
        ("change", "param", "told"),
        [
            ({"input": [[1, 2]]}, "input", "check_embedding_ctx_length=False"),
            ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
            ({"input": []}, "input", "no text"),
            ({"input": ["a"] * 2049}, "input", "2,048"),
            ({"input": ["a", "b" * 100_001]}, "input[1]", "100,000"),
            ({"dimensions": 128}, "dimensions", "384"),
            ({"extra_body": {"colour": 1}}, "colour", "unknown field 'colour'"),
            ({"encoding_format": "int8"}, "encoding_format", "float"),
            ({"model": 3}, "model", "valid string"),
        ],
    )
    def test_what_is_refused(self, ai, change, param, told):
        with pytest.raises(openai.BadRequestError, match=told) as caught:
            ai.embeddings.create(**{"input": "a", "model": "small"} | change)
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"

    def test_an_unknown_model(self, ai):
        with pytest.raises(openai.NotFoundError, match="did you mean 'small'") as caught:
            ai.embeddings.create(input="a", model="smal")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    def test_chat(self, ai, said):
        raw = ai.chat.completions.with_raw_response.create(messages=PROMPT, model="small", **GREEDY)
        answer = raw.parse()
        assert answer.choices[0].message.content == said.choices[0].message.content
        assert answer.choices[0].finish_reason == said.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 8
        assert raw.headers["x-hybrid-infer-backend"] == "local"
        assert raw.headers["x-hybrid-infer-model"] == answer.model == said.model
        assert raw.headers["x-hybrid-infer-attempts"] == "1"

    def test_chat_streamed(self, ai, said):
        stream = ai.chat.completions.create(
            messages=PROMPT, model="small", stream=True,
            stream_options={"include_usage": True}, **GREEDY,
        )  # fmt: skip
        chunks = list(stream)
        assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == said.choices[0].message.content
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 8
        assert all(chunk.usage is None for chunk in chunks[:-1])

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_options(self, ai, name):
        answer = ai.chat.completions.create(
            messages=PROMPT, model="small", temperature=0.7, top_p=0.9, seed=1, stop=["zzz"], n=1,
            user="me", extra_body={"top_k": 5}, **{name: 3},
        )  # fmt: skip
        assert answer.usage.completion_tokens <= 3

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"max_tokens": 4097}, "max_tokens"),
            ({"max_completion_tokens": 4097}, "max_completion_tokens"),
            ({"n": 5}, "n"),
            ({"temperature": 3}, "temperature"),
            ({"extra_body": {"chat_template": "{{ 1 }}"}}, "chat_template"),
            ({"extra_body": {"logits_processors": ["os.system"]}}, "logits_processors"),
            ({"messages": [{"role": "user", "content": "x" * 100_001}]}, "messages[0].content"),
            ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
            (
                {"messages": [{"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]},
                "messages[0].content",
            ),
        ],
    )  # fmt: skip
    def test_what_a_chat_may_not_ask(self, ai, change, param):
        with pytest.raises(openai.BadRequestError) as caught:
            ai.chat.completions.create(**{"messages": PROMPT, "model": "small"} | change)
        assert caught.value.param == param

    def test_an_over_long_prompt(self, ai):
        messages = [{"role": "user", "content": "word " * 8000}]
        with pytest.raises(openai.BadRequestError) as caught:
            ai.chat.completions.create(messages=messages, model="small")
        assert caught.value.code == "context_length_exceeded"

    def test_models(self, ai):
        names = [model.id for model in ai.models.list()]
        assert {"chat/small", "embeddings/small"} <= set(names)
        for name in ("embeddings/small", "small", "tiny/all-MiniLM-L6-v2"):
            assert ai.models.retrieve(name).owned_by == "tiny"
        assert ai.models.retrieve("default").id == "chat/default"  # vectors have one, too
        with pytest.raises(openai.NotFoundError):
            ai.models.retrieve("chat/none")

    async def _many(self, url, number):
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="unused") as client:
            calls = [client.embeddings.create(input=f"t{i}", model="small") for i in range(number)]
            return await asyncio.gather(*calls)

    def test_many_at_once_awaited(self, server, local):
        answers = asyncio.run(self._many(server.url, 64))
        expected = local.embed([f"t{i}" for i in range(64)], "small")
        same([answer.data[0].embedding for answer in answers], expected)


class TestHuggingFace:
    @pytest.mark.parametrize("family", ["/models/", "/hf-inference/models/"])
    def test_chat_by_path(self, server, said, family):
        client = InferenceClient(base_url=server.url + family + "tiny/Phi-3-mini-4k-instruct")
        answer = client.chat_completion(PROMPT, **GREEDY)
        assert answer.choices[0].message.content == said.choices[0].message.content
        chunks = list(client.chat_completion(PROMPT, stream=True, **GREEDY))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == said.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == "length"

    def test_chat_by_root(self, server):
        client = InferenceClient(base_url=server.url)
        assert client.chat_completion(PROMPT, **GREEDY).model == "tiny/Meta-Llama-3-8B-Instruct"

    @pytest.mark.parametrize(
        "path",
        [
            "/hf-inference/models/small/pipeline/feature-extraction",
            "/models/tiny/all-MiniLM-L6-v2/pipeline/feature-extraction",
            "/pipeline/feature-extraction/small",
        ],
    )
    def test_features(self, server, local, path):
        client = InferenceClient(model=server.url + path)
        one = client.feature_extraction("a text", truncate=True)
        assert one.shape == (384,)
        same([one], local.embed("a text", "small"))
        same(client.feature_extraction(TEXTS[:2]), local.embed(TEXTS[:2], "small"))
        raw = client.feature_extraction("a text", normalize=False)
        same([raw], local.embed("a text", "small", normalize=False))

    def test_an_error_keeps_its_words(self, server):
        from huggingface_hub.errors import HfHubHTTPError

        client = InferenceClient(model=server.url + "/pipeline/feature-extraction/nobody")
        with pytest.raises(HfHubHTTPError, match="unknown embeddings alias"):
            client.feature_extraction("a text")

    def test_awaited(self, server, local):
        async def features():
            url = server.url + "/pipeline/feature-extraction/small"
            async with AsyncInferenceClient(model=url) as client:
                return await client.feature_extraction("a text")

        same([asyncio.run(features())], local.embed("a text", "small"))


class TestOurselves:
    @pytest.mark.parametrize("dialect", ["hf-router", "openai", "tei"])
    def test_this_library_as_a_client(self, server, local, said, dialect):
        alias = "default" if dialect == "tei" else "small"
        models = {"remotes": [{"name": "it", "dialect": dialect, "base_url": server.url}]}
        with HybridClient("remote-only", profile="tiny", models=models) as client:
            result = client.embed(TEXTS, alias)
            same(result.vectors, local.embed(TEXTS, alias))
            assert result.route.provider == "it"
            if dialect != "tei":
                answer = client.chat_completion(PROMPT, "small", **GREEDY)
                assert answer.choices[0].message.content == said.choices[0].message.content
                with client.chat_completion(PROMPT, "small", stream=True, **GREEDY) as stream:
                    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
                assert text == said.choices[0].message.content


class TestLangChain:
    @pytest.fixture(autouse=True)
    def _quiet(self, monkeypatch):
        monkeypatch.setenv("LANGSMITH_TRACING", "false")

    def test_embeddings(self, server, local):
        from langchain_openai import OpenAIEmbeddings

        made = OpenAIEmbeddings(
            base_url=server.url + "/v1", api_key="unused", model="small",
            check_embedding_ctx_length=False,
        )  # fmt: skip
        same(made.embed_documents(TEXTS), local.embed(TEXTS, "small"))
        same([made.embed_query("q")], local.embed("q", "small"))

    def test_chat(self, server, said):
        from langchain_openai import ChatOpenAI

        chat = ChatOpenAI(base_url=server.url + "/v1", api_key="unused", model="small", **GREEDY)
        answer = chat.invoke([("user", PROMPT[0]["content"])])
        assert answer.content == said.choices[0].message.content
        pieces = chat.stream([("user", PROMPT[0]["content"])])
        assert "".join(piece.content for piece in pieces) == said.choices[0].message.content


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
class TestCurl:
    @staticmethod
    def curl(*words):
        command = ["curl", "--silent", "--show-error", "--max-time", "60", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def post(self, url, body, *words):
        json_type = ("-H", "content-type: application/json")
        return self.curl(*json_type, *words, "-d", json.dumps(body), url)

    def test_embed_of_tei(self, server, local):
        answer = self.post(server.url + "/embed", {"inputs": "a text", "truncate": True})
        same(json.loads(answer), local.embed("a text", "default"))
        assert json.loads(self.curl(server.url + "/info"))["model_id"] == "tiny/all-mpnet-base-v2"

    def test_old_clients_of_the_retired_host(self, server, local):
        body = {"inputs": "a text", "options": {"wait_for_model": True}}
        answer = self.post(server.url + "/pipeline/feature-extraction/small", body)
        same([json.loads(answer)], local.embed("a text", "small"))

    def test_a_stream(self, server, said):
        body = {"messages": PROMPT, "model": "small", "stream": True, **GREEDY}
        answer = self.post(server.url + "/v1/chat/completions", body, "-N")
        *events, done = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
        assert done == "[DONE]"
        choices = [json.loads(event)["choices"][0] for event in events]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert text == said.choices[0].message.content

    def test_a_request_id_is_echoed_or_made(self, server):
        url = server.url + "/health"
        assert "x-request-id: mine-1\n" in self.curl("-i", "-H", "x-request-id: mine-1", url)
        made = self.curl("-i", "-H", "x-request-id: a b", url)
        assert "x-request-id: " in made
        assert "a b" not in made
