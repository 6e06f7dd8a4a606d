"""OpenAI's chat options through OpenAI's own client: served by the local copy, by a remote, or refused."""

import json

import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from hybrid_infer.testing import FakeRemote, Reply

PROMPT = [{"role": "user", "content": "Tell me about low latency."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
# A seeded model would fill an object with white space until its tokens are used up.
SCHEMA = {"enum": ["a good mood", "a bad mood"]}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}


@pytest.fixture(scope="module")
def remote():
    with FakeRemote(answers="tiny") as made:
        yield made


@pytest.fixture(scope="module")
def ai(start_server):
    """OpenAI's client of a server that has a local copy only."""
    server = start_server("--profile", "tiny", "--policy", "local-only")
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def behind(start_server, remote):
    """OpenAI's client of a server that has a remote, too."""
    server = start_server("--profile", "tiny", "--base-url", remote.url)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def _fresh(remote):
    remote.reset()


def asked(client, **options):
    options = {"messages": PROMPT, "model": "small", "max_tokens": 24, "temperature": 0} | options
    return client.chat.completions.create(**options)


def message(**fields):
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **fields}}
    choice["finish_reason"] = "tool_calls"
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [choice],
        "model": "tiny/Phi-3-mini-4k-instruct",
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }  # fmt: skip


def delta(finish_reason=None, **fields):
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
        "model": "tiny/Phi-3-mini-4k-instruct", "choices": [choice],
    }  # fmt: skip


class TestTools:
    @pytest.mark.parametrize("stream", [False, True])
    def test_the_local_copy_alone_refuses_them_by_name(self, ai, stream):
        with pytest.raises(openai.BadRequestError) as caught:
            asked(ai, tools=TOOLS, stream=stream)
        assert (caught.value.param, caught.value.type) == ("tools", "invalid_request_error")

    def test_a_remote_serves_them(self, behind, remote):
        remote.enqueue(Reply(json=message(tool_calls=[CALL])))
        answer = asked(behind, tools=TOOLS, tool_choice="auto", parallel_tool_calls=False)
        (call,) = answer.choices[0].message.tool_calls
        assert (call.id, call.function.name) == ("call_1", "weather")
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
        assert answer.choices[0].finish_reason == "tool_calls"
        assert remote.ledger[-1].body_json["tools"] == TOOLS
        assert remote.ledger[-1].body_json["parallel_tool_calls"] is False

    def test_a_remote_streams_them(self, behind, remote):
        first = {"index": 0, **CALL, "function": {"name": "weather", "arguments": '{"city"'}}
        rest = {"index": 0, "function": {"arguments": ': "Oslo"}'}}
        events = [
            delta(role="assistant", tool_calls=[first]),
            delta(tool_calls=[rest]),
            delta("tool_calls"),
            "[DONE]",
        ]
        remote.enqueue(Reply(events=events))
        chunks = list(asked(behind, tools=TOOLS, stream=True))
        calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
        assert calls[0].function.name == "weather"
        text = "".join(call.function.arguments or "" for call in calls)
        assert json.loads(text) == {"city": "Oslo"}
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

    def test_a_conversation_with_their_results_goes_to_the_remote(self, behind, remote):
        turns = [
            *PROMPT,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ]
        remote.enqueue(Reply(json=message(content="It rains.")))
        assert asked(behind, messages=turns).choices[0].message.content == "It rains."
        assert remote.ledger[-1].body_json["messages"] == turns

    def test_no_fallback_makes_calls_up(self, start_server, remote):
        server = start_server("--profile", "tiny", "--base-url", remote.url)
        remote.enqueue(Reply(status=429, headers={"Retry-After": "600"}))
        with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
            for _ in range(2):
                with pytest.raises(openai.RateLimitError) as caught:
                    asked(client, tools=TOOLS)
                assert 1 <= int(caught.value.response.headers["retry-after"]) <= 600
        assert len(remote.ledger) == 1


class TestChoices:
    def test_several_answers(self, ai):
        answer = asked(ai, n=3, temperature=1.0, seed=1, max_tokens=6)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in answer.choices}) > 1
        assert answer.usage.completion_tokens == 18

    def test_several_streamed_side_by_side(self, ai):
        whole = asked(ai, n=2, temperature=1.0, seed=1, max_tokens=6)
        texts, reasons = {0: "", 1: ""}, {}
        stream = asked(
            ai, n=2, temperature=1.0, seed=1, max_tokens=6, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        *chunks, last = list(stream)
        for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason
        assert texts == {c.index: c.message.content for c in whole.choices}
        assert reasons == {0: "length", 1: "length"}
        assert (last.choices, last.usage.completion_tokens) == ([], 12)


class TestResponseFormat:
    @pytest.mark.parametrize("stream", [False, True])
    def test_the_local_copy_obeys_a_schema(self, ai, stream):
        answer = asked(ai, response_format=AS_SCHEMA, max_tokens=64, stream=stream)
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            text = answer.choices[0].message.content
        assert json.loads(text) in SCHEMA["enum"]

    def test_a_remote_is_sent_the_schema(self, behind, remote):
        remote.enqueue(Reply(json=message(content='"a good mood"')))
        answer = asked(behind, response_format=AS_SCHEMA)
        assert answer.choices[0].message.content == '"a good mood"'
        assert remote.ledger[-1].body_json["response_format"] == AS_SCHEMA

    def test_it_falls_back_like_any_other_answer(self, behind, remote):
        remote.enqueue(Reply(status=500), times=3)
        raw = behind.chat.completions.with_raw_response.create(
            messages=PROMPT, model="small", response_format=AS_SCHEMA, max_tokens=64
        )
        assert raw.headers["x-hybrid-infer-backend"] == "local"
        assert json.loads(raw.parse().choices[0].message.content) in SCHEMA["enum"]

    def test_a_schema_that_nobody_can_serve_is_refused(self, ai):
        schema = {"name": "x", "schema": {"not": {"type": "string"}}}
        with pytest.raises(openai.BadRequestError) as caught:
            asked(ai, response_format={"type": "json_schema", "json_schema": schema})
        assert caught.value.param == "response_format"


class TestLogprobs:
    def test_whole(self, ai):
        answer = asked(ai, logprobs=True, top_logprobs=3, max_tokens=4)
        entries = answer.choices[0].logprobs.content
        assert len(entries) == 4
        text = "".join(entry.token for entry in entries)
        assert text.lstrip() == answer.choices[0].message.content
        for entry in entries:
            assert entry.logprob <= 0
            assert len(entry.top_logprobs) == 3
            assert entry.top_logprobs[0].logprob == entry.logprob  # greedy takes the likeliest

    def test_streamed(self, ai):
        whole = asked(ai, logprobs=True, max_tokens=4).choices[0].logprobs.content
        chunks = list(asked(ai, logprobs=True, max_tokens=4, stream=True))
        streamed = [
            entry
            for chunk in chunks
            if chunk.choices[0].logprobs
            for entry in chunk.choices[0].logprobs.content
        ]
        assert [(e.token, e.logprob) for e in streamed] == [(e.token, e.logprob) for e in whole]

    def test_a_wrong_number_is_refused(self, ai):
        with pytest.raises(openai.BadRequestError) as caught:
            asked(ai, logprobs=True, top_logprobs=21)
        assert caught.value.param == "top_logprobs"


class TestUsage:
    @pytest.mark.parametrize("which", ["ai", "behind"])
    def test_a_stream_tells_usage_only_where_asked(self, which, request):
        client = request.getfixturevalue(which)
        chunks = list(asked(client, stream=True, max_tokens=4))
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        *rest, last = list(
            asked(client, stream=True, max_tokens=4, stream_options={"include_usage": True})
        )
        assert all(chunk.usage is None for chunk in rest)
        assert (last.choices, last.usage.completion_tokens) == ([], 4)
        assert last.usage.total_tokens == last.usage.prompt_tokens + 4


def test_an_answer_of_openais_is_a_message_of_the_next_request(ai, behind, remote):
    said = ChatCompletionMessage(
        role="assistant", content="hello", annotations=[], audio=None, function_call=None,
        refusal=None, tool_calls=None,
    )  # fmt: skip
    messages = [*PROMPT, said.model_dump(), *PROMPT]
    plain = [*PROMPT, {"role": "assistant", "content": "hello"}, *PROMPT]
    options = {"model": "small", "max_tokens": 4, "temperature": 0}
    answers = [
        ai.chat.completions.create(messages=given, **options).choices[0].message.content
        for given in (messages, plain)
    ]
    assert answers[0] == answers[1]
    behind.chat.completions.create(messages=messages, model="small")
    sent = remote.ledger[-1].body_json["messages"][len(PROMPT)]
    assert not {"annotations", "audio", "function_call"} & set(sent)


@pytest.mark.parametrize(
    ("role", "fields", "at_fault"),
    [
        ("user", {"annotations": []}, "annotations"),
        ("assistant", {"audio": {"id": "a"}}, "audio"),
        ("assistant", {"function_call": {"name": "f", "arguments": ""}}, "function_call"),
    ],
)
def test_what_would_change_the_answer_is_refused(ai, role, fields, at_fault):
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(
            messages=[{"role": role, "content": "hello", **fields}], model="small"
        )
    assert caught.value.param == f"messages[0].{at_fault}"


def test_obfuscation_is_accepted_and_not_there(ai, behind, remote):
    options = {"stream_options": {"include_obfuscation": False, "include_usage": True}}
    chunks = list(asked(ai, stream=True, max_tokens=2, **options))
    assert chunks[-1].usage.completion_tokens == 2
    list(asked(behind, stream=True, **options))
    assert "include_obfuscation" not in remote.ledger[-1].body_json["stream_options"]
    with pytest.raises(openai.BadRequestError, match="include_obfuscation"):
        asked(ai, stream=True, stream_options={"include_obfuscation": "no"})


def test_what_changes_no_answer_is_accepted_and_sent_nowhere(behind, remote):
    plain = asked(behind)
    said = asked(
        behind, user="me", metadata={"a": "b"}, store=True, service_tier="auto",
        safety_identifier="it is me", prompt_cache_key="mine",
    )  # fmt: skip
    assert said.choices[0].message.content == plain.choices[0].message.content
    first, second = remote.ledger
    assert first.body == second.body
