"""The whole path over real TCP: one call that survives its remote, sync and async alike."""

import asyncio
import gc

import numpy as np
import pytest

from hybrid_infer import (
    AsyncHybridClient,
    AuthenticationError,
    ConfigError,
    EngineClosedError,
    HybridClient,
    InvalidRequestError,
    ModelNotDownloadedError,
    RateLimitError,
    Reason,
    StreamInterruptedError,
)
from hybrid_infer.remote import proxies
from hybrid_infer.testing import FakeRemote, Reply

PROMPT = "Explain the importance of low latency LLMs."
LIMITED = {"status": 429, "headers": {"Retry-After": "30"}, "json": {"error": "Too many requests"}}


@pytest.fixture(scope="module")
def shared_fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


@pytest.fixture
def fake(shared_fake):
    shared_fake.reset()
    yield shared_fake
    shared_fake.reset()


@pytest.fixture
def client(fake):
    with HybridClient(profile="tiny", base_url=fake.url, dtype="float32") as made:
        yield made


def asynchronously(fake, use, **options):
    async def main():
        async with AsyncHybridClient(
            profile="tiny", base_url=fake.url, dtype="float32", **options
        ) as made:
            return await use(made)

    return asyncio.run(main())


def test_the_seeds_example(client, fake):
    answer = client.chat_completion(PROMPT, max_tokens=12)
    assert answer.choices[0].message.content
    assert (answer.route.backend, answer.route.provider) == ("remote", "huggingface"), answer.route
    assert answer.route.reason is Reason.PRIMARY

    fake.enqueue(Reply(**LIMITED))
    answer = client.chat_completion(PROMPT, max_tokens=12)
    assert answer.choices[0].message.content
    assert (answer.route.backend, answer.route.reason) == ("local", Reason.RATE_LIMITED)
    assert [a.target for a in answer.route.attempts] == ["huggingface", "local"]


def test_the_seeds_example_async(fake):
    fake.enqueue(Reply(**LIMITED))

    async def use(client):
        return await client.chat_completion(PROMPT, max_tokens=12)

    answer = asynchronously(fake, use)
    assert (answer.route.backend, answer.route.reason) == ("local", Reason.RATE_LIMITED)


def test_remote_and_local_agree(client):
    texts = ["a first text", "and a second one", ""]
    remote = client.embed(texts, model="small")
    local = client.embed(texts, model="small", route="local")
    assert (remote.route.backend, local.route.backend) == ("remote", "local")
    assert remote.space == local.space
    np.testing.assert_allclose(remote.vectors, local.vectors, atol=1e-5)
    assert remote.vectors.dtype == np.float32
    assert remote.vectors.flags.c_contiguous


def test_greedy_chat_agrees(client):
    options = {"model": "small", "max_tokens": 16, "temperature": 0}
    remote = client.chat_completion(PROMPT, **options)
    local = client.chat_completion(PROMPT, route="local", **options)
    assert remote.choices[0].message.content == local.choices[0].message.content
    assert remote.choices[0].finish_reason == local.choices[0].finish_reason
    assert remote.usage == local.usage


@pytest.mark.parametrize("route", ["remote", "local"])
def test_a_stream_joins_to_the_whole_answer(client, route):
    options = {"model": "small", "max_tokens": 16, "temperature": 0, "route": route}
    whole = client.chat_completion(PROMPT, **options)
    with client.chat_completion(
        PROMPT, stream=True, stream_options={"include_usage": True}, **options
    ) as stream:
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert finishes[-1] == whole.choices[0].finish_reason
    assert all(finish is None for finish in finishes[:-1])
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.route.backend for chunk in chunks} == {route}


def test_a_stream_that_fails_at_the_start_falls_back(client, fake):
    fake.enqueue(Reply(**LIMITED))
    with client.chat_completion(PROMPT, stream=True, max_tokens=8) as stream:
        assert stream.route.backend == "local"
        assert [chunk for chunk in stream if chunk.choices]


def test_a_stream_cut_after_its_first_chunk_is_never_a_success(client, fake):
    fake.enqueue(Reply(cut_after_events=3))
    chunks = []
    with pytest.raises(StreamInterruptedError) as caught:
        chunks.extend(
            client.chat_completion(
                PROMPT, model="small", stream=True, max_tokens=16, on_stream_error="raise"
            )
        )
    assert caught.value.attempts == (caught.value.attempts[0],)
    assert caught.value.partial


def test_the_remote_goes_and_comes_back(client, fake):
    client.warm("embeddings/small")
    assert client.embed("one", model="small").route.backend == "remote"
    fake.go_down()
    answer = client.embed("two", model="small")
    assert (answer.route.backend, answer.route.reason) == ("local", Reason.CONNECTION_FAILED)
    fake.come_back()
    assert client.embed("three", model="small").route.backend == "local", "it is left alone for 1 s"
    client.reset()
    assert client.embed("four", model="small").route.backend == "remote"


def test_a_closed_gate_sends_nothing(client, fake):
    fake.enqueue(Reply(**LIMITED))
    client.embed("one", model="small")
    sent = len(fake.ledger)
    for _ in range(5):
        assert client.embed("again", model="small").route.reason is Reason.RATE_LIMITED
    assert len(fake.ledger) == sent
    (state,) = client.status()["remotes"].values()
    assert state["state"] == "unavailable"
    assert state["closed"][0]["reason"] == "rate_limited"
    client.reset()
    assert client.embed("now", model="small").route.backend == "remote"


def test_what_is_sent_remotely(client, fake):
    client.chat_completion("hi", model="default", max_tokens=3, top_k=7, seed=4, stop="END")
    body = fake.ledger[-1].body_json
    assert body["model"] == "tiny/Meta-Llama-3-8B-Instruct"
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.6, 0.9, 7)
    assert (body["max_tokens"], body["seed"], body["stop"]) == (3, 4, ["END"])
    assert body["stream"] is False


def test_many_texts_go_in_chunks_of_32_in_order(client, fake):
    texts = [f"text number {i}" for i in range(100)]
    result = client.embed(texts, model="small")
    sizes = sorted(len(request.body_json["inputs"]) for request in fake.ledger)
    assert sizes == [4, 32, 32, 32]
    alone = client.embed(texts[77], model="small").vectors[0]
    np.testing.assert_allclose(result.vectors[77], alone, atol=1e-5)


def test_shapes(client):
    assert client.embed([]).vectors.shape == (0, 768)
    assert client.embed("one").vectors.shape == (1, 768)
    assert np.asarray(client.embed(["a", "b"], model="small")).shape == (2, 384)
    assert client.feature_extraction("one", model="small").shape == (384,)
    assert client.feature_extraction(["one"], model="small").shape == (1, 384)
    assert len(client.sentence_similarity("a", ["a", "b"], model="small")) == 2
    assert client.sentence_similarity("a", ["a"], model="small")[0] == pytest.approx(1, abs=1e-5)


def test_unnormalised_vectors_are_another_space(client):
    raw = {
        route: client.embed("some text", model="small", normalize=False, route=route)
        for route in ("local", "remote")
    }
    unit = client.embed("some text", model="small")
    assert raw["local"].space == raw["remote"].space != unit.space
    np.testing.assert_allclose(raw["local"].vectors, raw["remote"].vectors, rtol=1e-4, atol=1e-5)
    norm = np.linalg.norm(raw["local"].vectors)
    np.testing.assert_allclose(raw["local"].vectors / norm, unit.vectors, atol=1e-5)


def test_openai_shapes(client):
    made = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=4
    )
    assert made.object == "chat.completion"
    listed = client.embeddings.create(input=["a", "b"], model="small")
    assert [item.index for item in listed.data] == [0, 1]
    assert len(listed.data[0].embedding) == 384
    encoded = client.embeddings.create(input="a", model="small", encoding_format="base64")
    assert isinstance(encoded.data[0].embedding, str)


def test_openai_s_options_of_a_call(client, fake):
    ask = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    client.chat.completions.create(**ask, timeout=20.0, extra_body={"top_k": 3}, user="me")
    sent = fake.ledger[-1].body_json
    assert (sent["top_k"], sent["user"]) == (3, "me")
    assert "timeout" not in sent
    num_sent = len(fake.ledger)
    for options, argument in [
        ({"extra_headers": {"Authorization": "secret"}}, "extra_headers"),
        ({"extra_query": {"a": "b"}}, "extra_query"),
        ({"extra_body": 3}, "extra_body"),
        ({"extra_body": {"max_tokens": 3}}, "max_tokens"),
        ({"max_completion_tokens": 3}, "max_tokens"),
        ({"timeout": -1.0}, "deadline"),
    ]:
        with pytest.raises(InvalidRequestError) as refused:
            client.chat.completions.create(**ask, **options)
        assert refused.value.argument == argument
    with pytest.raises(InvalidRequestError):
        client.embeddings.create(input="a", model="small", encoding_format="int8")
    assert len(fake.ledger) == num_sent  # refused before anything was asked


def test_what_frameworks_send_without_meaning_it_keeps_the_local_copy(client):
    neutral = {
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "parallel_tool_calls": True,
        "n": 1,
        "user": "me",
        "metadata": {"a": "b"},
    }
    answer = client.chat_completion("hi", "small", max_tokens=2, route="local", **neutral)
    assert answer.route.backend == "local"
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        client.chat_completion("hi", "small", route="local", logit_bias={"5": 1})


def test_an_option_local_cannot_honour_is_never_dropped(client, fake):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    fake.enqueue(Reply(**LIMITED))
    with pytest.raises(RateLimitError) as caught:
        client.chat_completion("hi", tools=tools, deadline=5.0)
    assert "tools" in caught.value.__notes__[0]
    with pytest.raises(InvalidRequestError) as refused:
        client.chat_completion("hi", tools=tools, route="local")
    assert refused.value.argument == "tools"


@pytest.mark.parametrize("route", ["remote", "local"])
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda c, r: c.embed(None, route=r), "texts"),
        (lambda c, r: c.embed(b"x", route=r), "texts"),
        (lambda c, r: c.embed(["a", 5], route=r), "texts[1]"),
        (lambda c, r: c.embed("\ud800", route=r), "texts"),
        (lambda c, r: c.embed("a", model="smal", route=r), "model"),
        (lambda c, r: c.embed("a", model="chat/small", route=r), "model"),
        (lambda c, r: c.chat_completion([], route=r), "messages"),
        (
            lambda c, r: c.chat_completion([{"role": "x", "content": "y"}], route=r),
            "messages[0].role",
        ),
        (lambda c, r: c.chat_completion("a", max_tokens=-1, route=r), "max_tokens"),
        (lambda c, r: c.chat_completion("a", temperature=-1, route=r), "temperature"),
        (lambda c, r: c.chat_completion("a", top_p=2, route=r), "top_p"),
        (lambda c, r: c.chat_completion("a", model="nope", route=r), "model"),
    ],
)
def test_bad_input_is_the_same_error_on_both_backends(client, fake, call, argument, route):
    with pytest.raises(InvalidRequestError) as caught:
        call(client, route)
    assert caught.value.argument == argument
    assert caught.value.attempts == ()
    assert fake.ledger == []


@pytest.mark.parametrize("route", ["remote", "local"])
def test_five_million_characters_are_cut_and_reported(client, route):
    result = client.embed(["short", "word " * 1_000_000], model="small", route=route)
    assert result.vectors.shape == (2, 384)
    assert result.usage.truncations == 1


def test_no_remote_and_no_copy_names_both_fixes(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with HybridClient() as client, pytest.raises(ModelNotDownloadedError) as caught:
        client.embed("a", model="small")
    assert "hybrid-infer pull embeddings/small" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)


def test_remote_only_without_a_key_names_the_page():
    with (
        HybridClient(policy="remote-only") as client,
        pytest.raises(AuthenticationError, match=r"https://huggingface\.co/settings/tokens"),
    ):
        client.embed("a", model="small")


def test_tiny_refuses_a_remote_that_is_not_loopback():
    with pytest.raises(ConfigError, match="this machine"):
        HybridClient(profile="tiny", base_url="https://example.com")


def test_a_closed_client_says_so(fake):
    client = HybridClient(profile="tiny", base_url=fake.url)
    client.close()
    client.close()
    for texts in ("a", []):
        with pytest.raises(EngineClosedError):
            client.embed(texts, model="small")


@pytest.mark.parametrize("route", ["remote", "local"])
def test_a_stream_outlives_a_client_that_was_lost(fake, route):
    def ask():
        client = HybridClient(profile="tiny", base_url=fake.url, dtype="float32")
        return client.chat_completion(
            PROMPT, model="small", stream=True, max_tokens=12, temperature=0, route=route
        )

    stream = ask()
    first = next(stream)
    gc.collect()
    rest = list(stream)
    assert first.choices[0].delta.role == "assistant"
    assert rest[-1].choices[0].finish_reason


def test_a_lost_client_releases_what_it_held(fake):
    client = HybridClient(profile="tiny", base_url=fake.url)
    client.embed("a", model="small", route="local")
    backends = client._session.backends
    del client
    gc.collect()
    assert backends.is_closed


def test_events_tell_the_story(fake):
    seen = []
    with HybridClient(profile="tiny", base_url=fake.url, on_event=seen.append) as client:
        fake.enqueue(Reply(**LIMITED))
        client.embed("a very private text", model="small")
    # Loads and batches are told by their own threads, whenever they end.
    threads = ("ModelLoading", "ModelLoaded", "BatchComputed")
    names = [type(e).__name__ for e in seen if type(e).__name__ not in threads]
    assert names == [
        "AttemptFinished", "TargetClosed", "AttemptFinished", "FellBack", "CallFinished",
        "ModelUnloaded",
    ]  # fmt: skip
    assert "private" not in repr(seen)


def test_an_observer_that_raises_breaks_nothing(fake):
    def broken(event):
        raise RuntimeError("observer")

    with HybridClient(profile="tiny", base_url=fake.url, on_event=broken) as client:
        assert client.embed("one", model="small").vectors.shape == (1, 384)


def test_a_proxy_that_cannot_be_used_leaves_it_to_the_local_copy(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    monkeypatch.setattr(proxies, "is_loopback", lambda _: False)  # tiny models go nowhere else
    with HybridClient(profile="tiny", base_url="http://127.0.0.1:9") as client:
        route = client.embed("a", model="small").route
    assert (route.backend, route.reason) == ("local", Reason.CONNECTION_FAILED)
