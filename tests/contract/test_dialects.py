"""The whole path in each dialect: one call means the same whatever the remote speaks."""

import asyncio
import re
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid_infer import (
    AsyncHybridClient,
    AuthenticationError,
    HybridClient,
    InvalidRequestError,
    ModelLoadingError,
    ModelNotAvailableError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    Reason,
    RemoteProtocolError,
    RemoteServerError,
    StreamInterruptedError,
)
from hybrid_infer.registry import load_registry
from hybrid_infer.testing import FakeRemote, Reply

TEXTS = ["a first text", "and a second one", "", "naïve 東京 $& 🙂"]
CHAT = {"model": "small", "max_tokens": 12, "temperature": 0}
PROMPT = "Explain the importance of low latency LLMs."
DIALECTS = ("hf-router", "openai", "tei")
CHAT_DIALECTS = ("hf-router", "openai")
EMBED_PATHS = {
    "hf-router": "/hf-inference/models/tiny/all-MiniLM-L6-v2/pipeline/feature-extraction",
    "openai": "/v1/embeddings",
    "tei": "/embed",
}
KEYS = ("HF_TOKEN", "FIRST_KEY", "SECOND_KEY")


@pytest.fixture(scope="module")
def shared_fakes():
    with (
        FakeRemote(embedding_model="embeddings/small") as first,
        FakeRemote(embedding_model="embeddings/small") as second,
    ):
        yield first, second


@pytest.fixture
def fakes(shared_fakes):
    for fake in shared_fakes:
        fake.reset()
    yield shared_fakes
    for fake in shared_fakes:
        fake.reset()


@pytest.fixture
def fake(fakes):
    return fakes[0]


def remote(fake, dialect, name="box", **more):
    return {"name": name, "dialect": dialect, "base_url": fake.url, **more}


def client_of(*remotes, policy="remote-first", kind=HybridClient, **options):
    options = {"profile": "tiny", "dtype": "float32", "policy": policy, **options}
    return kind(models={"remotes": list(remotes)}, **options)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_vectors_in_every_dialect(fake, dialect):
    with client_of(remote(fake, dialect)) as client:
        there = client.embed(TEXTS, model="small")
        here = client.embed(TEXTS, model="small", route="local")
    assert [request.path for request in fake.ledger] == [EMBED_PATHS[dialect]]
    assert (there.route.backend, there.route.provider) == ("remote", "box")
    assert there.space == here.space
    assert there.vectors.flags.c_contiguous
    assert there.vectors.dtype == np.float32
    np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-5)
    assert (there.usage.prompt_tokens is not None) == (dialect == "openai")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_vectors_awaited(fake, dialect):
    async def main():
        async with client_of(remote(fake, dialect), kind=AsyncHybridClient) as client:
            there = await client.embed(TEXTS * 20, model="small")
            here = await client.embed(TEXTS * 20, model="small", route="local")
            return there, here

    there, here = asyncio.run(main())
    assert len(fake.ledger) == 3
    assert there.route.backend == "remote"
    np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-5)


@pytest.mark.parametrize("dialect", CHAT_DIALECTS)
@pytest.mark.parametrize("suffix", ["", "/v1"])
def test_the_same_answer_in_every_dialect(fake, dialect, suffix):
    box = {**remote(fake, dialect), "base_url": fake.url + suffix}
    with client_of(box) as client:
        there = client.chat_completion(PROMPT, **CHAT)
        here = client.chat_completion(PROMPT, route="local", **CHAT)
        with client.chat_completion(
            PROMPT, stream=True, stream_options={"include_usage": True}, **CHAT
        ) as stream:
            chunks = list(stream)
    assert [request.path for request in fake.ledger] == ["/v1/chat/completions"] * 2
    assert there.route.backend == "remote"
    assert there.route.verified
    assert there.choices[0].message.content == here.choices[0].message.content
    assert there.usage == here.usage == chunks[-1].usage
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == there.choices[0].message.content
    assert {chunk.route.provider for chunk in chunks} == {"box"}


def test_tei_is_not_asked_for_chat(fake):
    with client_of(remote(fake, "tei")) as client:
        answer = client.chat_completion(PROMPT, **CHAT)
        assert (answer.route.backend, answer.route.reason) == ("local", Reason.MODEL_UNAVAILABLE)
        with pytest.raises(ModelNotAvailableError, match="does not serve chat/small"):
            client.chat_completion(PROMPT, route="box", **CHAT)
    assert fake.ledger == []


FAILURES = [
    ("hf-router", 429, {"error": "Too many requests"}, RateLimitError),
    ("openai", 429, {"error": {"message": "slow", "code": "rate_limit"}}, RateLimitError),
    ("tei", 429, {"error": "Model is overloaded", "error_type": "Overloaded"}, OverloadedError),
    ("openai", 402, {"error": {"message": "no credits"}}, QuotaExceededError),
    ("openai", 401, {"error": {"message": "bad key"}}, AuthenticationError),
    ("tei", 401, {"error": "bad key"}, AuthenticationError),
    ("openai", 404, {"error": {"message": "no such model"}}, ModelNotAvailableError),
    ("openai", 400, {"error": {"message": "bad input"}}, InvalidRequestError),
    ("tei", 422, {"error": "bad input", "error_type": "Tokenizer"}, InvalidRequestError),
    ("tei", 413, {"error": "bad input", "error_type": "Validation"}, InvalidRequestError),
    ("tei", 413, {"error": "length limit exceeded"}, RemoteServerError),
    ("tei", 424, {"error": "inference failed", "error_type": "Backend"}, RemoteServerError),
    ("tei", 503, {"error": "unhealthy", "error_type": "Unhealthy"}, RemoteServerError),
    ("tei", 503, {"error": "loading", "estimated_time": 20.0}, ModelLoadingError),
    ("openai", 503, {"error": "scaled to zero, initializing"}, ModelLoadingError),
    ("openai", 500, {"error": {"message": "oops"}}, RemoteServerError),
    ("openai", 200, {"object": "list", "data": []}, RemoteProtocolError),
    ("tei", 200, {"error": "odd"}, RemoteProtocolError),
]


@pytest.mark.parametrize(("dialect", "status", "body", "kind"), FAILURES)
def test_a_failure_is_the_same_error_in_every_dialect(fake, dialect, status, body, kind):
    fake.enqueue(Reply(status=status, json=body), times=None)
    with client_of(remote(fake, dialect), policy="remote-only") as client:
        client._session.randomness = SimpleNamespace(uniform=lambda _, most: most)
        with pytest.raises(kind) as caught:
            client.embed("a text", model="small", deadline=1.0)
        assert type(caught.value) is kind
        assert len(caught.value.attempts) == len(fake.ledger)


@pytest.mark.parametrize(("dialect", "status", "body", "kind"), FAILURES)
def test_a_failure_falls_back_unless_it_is_the_callers_own(fake, dialect, status, body, kind):
    fake.enqueue(Reply(status=status, json=body), times=None)
    with client_of(remote(fake, dialect)) as client:
        if kind is InvalidRequestError:
            with pytest.raises(InvalidRequestError):
                client.embed("a text", model="small")
            return
        assert client.embed("a text", model="small").route.backend == "local"


def test_remotes_are_tried_in_their_order(fakes):
    first, second = fakes
    first.enqueue(Reply(status=500))
    remotes = remote(first, "openai", "vllm"), remote(second, "tei", "tei-box")
    with client_of(*remotes) as client:
        answer = client.embed(TEXTS, model="small")
        named = client.embed(TEXTS, model="small", route="vllm")
    assert [attempt.target for attempt in answer.route.attempts] == ["vllm", "tei-box"]
    assert answer.route.reason is Reason.SERVER_ERROR
    assert named.route.provider == "vllm"
    assert [len(first.ledger), len(second.ledger)] == [2, 1]
    np.testing.assert_allclose(answer.vectors, named.vectors, atol=1e-6)


def test_each_remote_is_asked_by_its_own_name_for_the_model(fakes):
    first, second = fakes
    served = {"embeddings/small": "embeddings/small", "chat/small": "small"}
    remotes = (
        remote(first, "openai", "vllm", models={"chat/small": "small"}),
        remote(second, "openai", "all", models=served),
    )
    with client_of(*remotes) as client:
        assert client.embed("a", model="small").route.provider == "all"
        answer = client.chat_completion(PROMPT, **CHAT)
    assert (answer.route.provider, answer.route.verified) == ("vllm", True)
    assert second.ledger[0].body_json["model"] == "embeddings/small"
    assert first.ledger[0].body_json["model"] == "small"


def test_a_provider_is_pinned_per_alias(fake):
    models = {
        "chat": {"small": {"provider": "together"}},
        "remotes": [remote(fake, "hf-router")],
    }
    with HybridClient(models=models, profile="tiny", dtype="float32") as client:
        client.chat_completion(PROMPT, **CHAT)
        client.chat_completion(PROMPT, **{**CHAT, "model": "default"})
    sent = [request.body_json["model"] for request in fake.ledger]
    assert sent == ["tiny/Phi-3-mini-4k-instruct:together", "tiny/Meta-Llama-3-8B-Instruct"]


def test_each_remote_gets_its_own_key(fakes, monkeypatch):
    first, second = fakes
    for name in KEYS:
        monkeypatch.setenv(name, f"value-of-{name}")
    first.enqueue(Reply(status=500))
    remotes = (
        remote(first, "openai", "vllm", key_env="FIRST_KEY"),
        remote(second, "tei", "tei-box", key_env="SECOND_KEY"),
    )
    with client_of(*remotes) as client:
        client.embed("a", model="small")
    sent = [fake.ledger[0].headers["authorization"] for fake in fakes]
    assert sent == ["Bearer value-of-FIRST_KEY", "Bearer value-of-SECOND_KEY"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_foreign_host_gets_no_ambient_key(fake, monkeypatch, dialect):
    for name in KEYS:
        monkeypatch.setenv(name, f"value-of-{name}")
    look_up = socket.getaddrinfo

    def to_loopback(host, *args, **options):
        return look_up("127.0.0.1" if host in ("box.lan", b"box.lan") else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
    port = fake.url.rpartition(":")[2]
    box = {"name": "box", "dialect": dialect, "base_url": f"http://box.lan:{port}"}
    with HybridClient(models={"remotes": [box]}, policy="remote-only") as client:
        assert client.embed("a", model="small").vectors.shape == (1, 384)
    for thread in threading.enumerate():  # the canary's: this host is none to the next test
        if thread.name in ("hybrid-infer-canary", "hybrid-infer-lookup"):
            thread.join(60)
    assert fake.ledger  # the call, and maybe the canary's
    for request in list(fake.ledger):
        assert request.headers["host"] == f"box.lan:{port}"
        assert "value-of" not in repr(request.headers)
        assert "authorization" not in request.headers


def test_what_openai_s_api_cannot_express_is_not_sent_there(fake):
    with client_of(remote(fake, "openai"), policy="remote-only") as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.embed("a", model="small", normalize=False)
        assert caught.value.argument == "normalize"
    assert fake.ledger == []


@pytest.mark.parametrize("dialect", ["hf-router", "tei"])
def test_unnormalised_vectors_agree_where_they_can_be_asked_for(fake, dialect):
    with client_of(remote(fake, dialect)) as client:
        there = client.embed("a text", model="small", normalize=False)
        here = client.embed("a text", model="small", normalize=False, route="local")
    assert there.route.backend == "remote"
    np.testing.assert_allclose(there.vectors, here.vectors, rtol=1e-4, atol=1e-5)


def test_a_cut_stream_is_never_a_success_in_openai(fake):
    fake.enqueue(Reply(cut_after_events=3))
    with (
        client_of(remote(fake, "openai"), policy="remote-only") as client,
        pytest.raises(StreamInterruptedError) as caught,
    ):
        list(client.chat_completion(PROMPT, stream=True, **CHAT))
    assert caught.value.partial


def test_a_stream_that_openai_refuses_falls_back(fake):
    fake.enqueue(Reply(status=503, json={"error": {"message": "Model is loading"}}))
    with (
        client_of(remote(fake, "openai")) as client,
        client.chat_completion(PROMPT, stream=True, **CHAT) as stream,
    ):
        assert (stream.route.backend, stream.route.reason) == ("local", Reason.MODEL_LOADING)
        assert any(chunk.choices for chunk in stream)


def examples(language):
    text = (Path(__file__).parents[2] / "docs" / "remotes.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("place", range(2))
def test_the_documented_files_are_valid(tmp_path, place):
    path = tmp_path / "models.yaml"
    path.write_text(examples("yaml")[place], encoding="utf-8")
    registry = load_registry(path, environ={})
    asked = [remote.model_id(registry.resolve("chat", "small")) for remote in registry.remotes]
    assert (
        asked
        == [
            [None, None, "microsoft/Phi-3-mini-4k-instruct"],
            ["microsoft/Phi-3-mini-4k-instruct:together"],
        ][place]
    )


def test_the_documented_code_runs():
    (code,) = examples("python")
    exec(compile(code, "docs/remotes.md", "exec"), {})  # noqa: S102 - our own documentation
