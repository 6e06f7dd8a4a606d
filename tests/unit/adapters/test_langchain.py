"""The adapter in LangChain's own hands: chains, streams, batches, tools."""

import asyncio

import numpy as np
import pytest
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from tokenizers import Tokenizer

from hybrid_infer import (
    ConfigError,
    HybridClient,
    InvalidRequestError,
    ModelNotDownloadedError,
    RateLimitError,
)
from hybrid_infer.adapters.langchain import ChatHybridInfer, HybridInferEmbeddings
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.testing import Reply

TEXTS = ["a first text", "and a second one"]
OPTIONS = {"model": "small", "max_tokens": 8, "temperature": 0}


@pytest.fixture
def expected(client):
    return client.chat_completion("hello", **OPTIONS).choices[0].message.content


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def test_embeddings_are_those_of_embed(client):
    embeddings = HybridInferEmbeddings("small", client=client)
    vectors = embeddings.embed_documents(TEXTS)
    assert isinstance(vectors[0][0], float)
    np.testing.assert_allclose(vectors, client.embed(TEXTS, "small").vectors, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), vectors[0], atol=1e-6)


def test_embeddings_awaited(client, asynchronously):
    async def use(async_client):
        both = HybridInferEmbeddings("small", async_client=async_client)
        return await both.aembed_documents(TEXTS), await both.aembed_query(TEXTS[0])

    many, one = asynchronously(use)
    np.testing.assert_allclose(many, client.embed(TEXTS, "small").vectors, atol=1e-6)
    np.testing.assert_allclose(one, many[0], atol=1e-6)
    blocking = HybridInferEmbeddings("small", client=client)
    np.testing.assert_allclose(asyncio.run(blocking.aembed_documents(TEXTS)), many, atol=1e-6)


def test_a_vector_store_finds_the_text_itself(client):
    store = InMemoryVectorStore(HybridInferEmbeddings("small", client=client))
    store.add_texts(TEXTS)
    (found,) = store.similarity_search(TEXTS[1], k=1)
    assert found.page_content == TEXTS[1]


def test_a_chain(client, expected):
    prompt = ChatPromptTemplate.from_messages([("human", "{word}")])
    chain = prompt | ChatHybridInfer(client=client, **OPTIONS) | StrOutputParser()
    assert chain.invoke({"word": "hello"}) == expected


def test_a_message_says_who_served_it(client, limited):
    answer = ChatHybridInfer(client=client, **OPTIONS).invoke("hello")
    assert answer.response_metadata["backend"] == "local"
    assert answer.response_metadata["reason"] == "rate_limited"
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["output_tokens"] == 8
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + 8


def test_a_stream_joins_to_the_whole_answer(client, expected):
    chunks = list(ChatHybridInfer(client=client, **OPTIONS).stream("hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == expected
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata["output_tokens"] == 8


def test_a_stream_that_is_left_is_closed(client, fake):
    stream = ChatHybridInfer(client=client, **{**OPTIONS, "max_tokens": 200}).stream("hello")
    next(stream)
    stream.close()
    assert fake.wait_for(1, timeout=5, finished=True)


def test_awaited_calls_and_streams(asynchronously, expected):
    async def use(async_client):
        model = ChatHybridInfer(async_client=async_client, **OPTIONS)
        answer = await model.ainvoke("hello")
        parts = [chunk.content async for chunk in model.astream("hello")]
        with pytest.raises(ConfigError, match="client="):
            model.invoke("hello")
        return answer.content, parts

    answer, parts = asynchronously(use)
    assert answer == "".join(parts) == expected
    assert len(parts) > 1


def test_a_blocking_client_serves_awaited_calls_too(client, expected):
    model = ChatHybridInfer(client=client, **OPTIONS)

    async def use():
        answer = await model.ainvoke("hello")
        return answer.content, "".join([chunk.content async for chunk in model.astream("hello")])

    assert asyncio.run(use()) == (expected, expected)


def tool_answer(arguments):
    function = {"name": "weather", "arguments": arguments}
    message = {
        "role": "assistant", "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }  # fmt: skip
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": "tiny/Phi-3-mini-4k-instruct",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }  # fmt: skip


def test_messages_arrive_in_openais_shape(client, fake):
    fake.enqueue(Reply(json=tool_answer("{}")))  # the tiny model itself knows no tools
    ChatHybridInfer(client=client, **OPTIONS).invoke(
        [
            SystemMessage("be brief"),
            HumanMessage([{"type": "text", "text": "weather?"}]),
            AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": "c1"}]),
            ToolMessage("sunny", tool_call_id="c1"),
        ]
    )
    sent = fake.ledger[-1].body_json["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[1]["content"] == "weather?"
    assert sent[2]["tool_calls"][0]["function"] == {
        "name": "weather", "arguments": '{"city": "Rome"}'
    }  # fmt: skip
    assert sent[3]["tool_call_id"] == "c1"


BY_NAME = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("choice", [None, False, "any", True, "weather", "auto", BY_NAME])
def test_tools_are_bound_and_their_calls_read(client, fake, choice):
    fake.enqueue(Reply(json=tool_answer('{"city": "Rome"}')))
    model = ChatHybridInfer(client=client, **OPTIONS).bind_tools([weather], tool_choice=choice)
    answer = model.invoke("weather in Rome?")
    assert answer.tool_calls == [
        {"name": "weather", "args": {"city": "Rome"}, "id": "c1", "type": "tool_call"}
    ]
    sent = fake.ledger[-1].body_json
    assert sent["tools"][0]["function"]["name"] == "weather"
    told = {None: None, False: None, "any": "required", True: "required", "weather": BY_NAME}
    expected = choice if choice in ("auto", BY_NAME) else told[choice]
    assert sent.get("tool_choice") == expected


def test_arguments_that_are_no_json_are_told_apart(client, fake):
    fake.enqueue(Reply(json=tool_answer('{"city": ')))
    answer = ChatHybridInfer(client=client, **OPTIONS).bind_tools([weather]).invoke("?")
    assert answer.tool_calls == []
    assert answer.invalid_tool_calls[0]["args"] == '{"city": '


def test_stop_and_further_options_reach_the_call(client, fake):
    model = ChatHybridInfer(client=client, top_p=0.5, seed=7, stop=["own"], **OPTIONS)
    model.invoke("hello", stop=["given"], top_k=3)
    sent = fake.ledger[-1].body_json
    assert (sent["stop"], sent["top_k"], sent["top_p"], sent["seed"]) == (["given"], 3, 0.5, 7)


def test_errors_keep_their_types(client, limited):
    model = ChatHybridInfer(client=client, route="remote", deadline=20.0, **OPTIONS)
    with pytest.raises(RateLimitError):
        model.invoke("hello")


def test_a_client_can_be_changed(client, fake):
    first = ChatHybridInfer(client=client, **OPTIONS)
    assert first.invoke("hello").content
    asked = len(fake.ledger)
    with HybridClient(profile="tiny", policy="local-only", dtype="float32") as other:
        second = first.model_copy(update={"client": other})
        assert second.invoke("hello").response_metadata["backend"] == "local"
        third = ChatHybridInfer(client=client, **OPTIONS)
        third.client = other
        assert third.invoke("hello").content
        assert len(fake.ledger) == asked
        third.client = client
        first.invoke("hello")
        third.invoke("hello")
    assert len(fake.ledger) == asked + 2


def test_a_stream_of_several_answers_is_refused(client, asynchronously):
    model = ChatHybridInfer(client=client, **OPTIONS).bind(n=2)
    with pytest.raises(InvalidRequestError, match="n must be 1"):
        next(model.stream("hello"))
    assert next(model.bind(n=1).stream("hello"))

    async def use(async_client):
        model = ChatHybridInfer(async_client=async_client, **OPTIONS).bind(n=2)
        with pytest.raises(InvalidRequestError, match="n must be 1"):
            await anext(model.astream("hello"))

    asynchronously(use)


def test_logprobs_are_in_a_stream_too(client):
    model = ChatHybridInfer(client=client, route="local", **OPTIONS).bind(logprobs=True)
    whole, *rest = model.stream("hello")
    for chunk in rest:
        whole += chunk
    expected = model.invoke("hello").response_metadata["logprobs"]["content"]
    told = whole.response_metadata["logprobs"]["content"]
    assert [entry["token"] for entry in told] == [entry["token"] for entry in expected]


@pytest.mark.parametrize("stream", [True, False])
def test_invoke_may_be_told_to_stream(client, expected, stream):
    assert (
        ChatHybridInfer(client=client, **OPTIONS).invoke("hello", stream=stream).content == expected
    )


def test_tokens_are_counted_by_the_model_s_own_tokenizer(client):
    text = "Explain low latency, and its cost."
    path = find_snapshot(load_registry(profile="tiny").resolve("chat", "small")) / "tokenizer.json"
    expected = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert expected
    for name in ("small", "chat/small", "tiny/Phi-3-mini-4k-instruct"):
        model = ChatHybridInfer(model=name, client=client)
        assert model.get_token_ids(text) == expected
        assert model.get_num_tokens(text) == len(expected)
    own = ChatHybridInfer(client=client, custom_get_token_ids=lambda _: [1, 2], **OPTIONS)
    assert own.get_num_tokens(text) == 2


def test_messages_are_trimmed_to_what_fits(client):
    model = ChatHybridInfer(client=client, **OPTIONS)
    messages = [HumanMessage(f"message number {number}, which is old") for number in range(50)]
    most = model.get_num_tokens_from_messages(messages[-3:])
    trimmed = trim_messages(messages, max_tokens=most, token_counter=model, strategy="last")
    assert trimmed == messages[-3:]


def test_what_counts_tokens_must_be_here(client, tmp_path, monkeypatch):
    with pytest.raises(InvalidRequestError, match="no chat alias 'nothing'"):
        ChatHybridInfer(model="nothing", client=client).get_num_tokens("a")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with HybridClient(policy="local-only") as other:
        for model in ("small", "org/nobody-has-it"):
            with pytest.raises(ModelNotDownloadedError):
                ChatHybridInfer(model=model, client=other).get_num_tokens("a")


def test_no_client_is_serialised(client):
    model = ChatHybridInfer(client=client, **OPTIONS)
    assert "client" not in model.model_dump()
    assert model._identifying_params == {"model": "small", "max_tokens": 8, "temperature": 0}


def test_a_model_is_equal_to_its_like_used_or_not(client):
    used, fresh = (ChatHybridInfer(model="small", client=client) for _ in range(2))
    assert used == fresh
    used.get_num_tokens("some text")
    assert used == fresh
