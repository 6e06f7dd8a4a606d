"""llm-interface's API in Python names: what it does, and the faults of the original that it lacks."""

import json

import numpy as np
import pytest

from hybrid_infer import HybridClient, InvalidRequestError, RateLimitError, RemoteServerError
from hybrid_infer.adapters.llm_interface import Interface, InterfaceOptions
from hybrid_infer.adapters.llm_interface.json_text import find_json, repair_json
from hybrid_infer.testing import Reply

PROMPT = "Explain the importance of low latency LLMs."
SMALL = {"model": "small", "max_tokens": 6, "temperature": 0}
PHI, LLAMA = "tiny/Phi-3-mini-4k-instruct", "tiny/Meta-Llama-3-8B-Instruct"


class Slept(list):
    def __call__(self, seconds):
        self.append(seconds)


@pytest.fixture
def slept():
    return Slept()


@pytest.fixture
def interface(client, clock, slept):
    return Interface(client, clock=clock, sleep=slept)


@pytest.fixture
def remote_only(fake, clock, slept):
    with HybridClient("remote-only", profile="tiny", base_url=fake.url) as client:
        yield Interface(client, clock=clock, sleep=slept)


def says(text):
    message = {"role": "assistant", "content": text}
    return Reply(
        json={
            "id": "x", "object": "chat.completion", "created": 1, "model": PHI,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }
    )  # fmt: skip


# Messages ----------------------------------------------------------------------------------------


def test_a_text(interface, client, fake):
    response = interface.send_message("huggingface", PROMPT, SMALL)
    expected = client.chat_completion(PROMPT, **SMALL)
    assert response.success
    assert response.results == expected.choices[0].message.content.strip()
    assert (response.model, response.finish_reason) == (PHI, "length")
    assert response.usage == expected.usage
    assert (response.retries, response.original_response, response.cache_type) == (0, None, None)
    # The text alone: no system message that nobody wrote.
    assert fake.ledger[0].body_json["messages"] == [{"role": "user", "content": PROMPT}]


def test_a_message_object_brings_its_own_options(interface, fake):
    message = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    interface.send_message("huggingface", message)
    interface.send_message("huggingface", message, {"max_tokens": 4})
    first, second = (request.body_json for request in fake.ledger)
    assert (first["model"], first["max_tokens"]) == (PHI, 3)
    assert second["max_tokens"] == 4
    assert message["max_tokens"] == 3, "what the caller passes is not changed"
    with pytest.raises(InvalidRequestError, match="messages"):
        interface.send_message("huggingface", {"model": "small"})


def test_it_falls_back(interface, limited):
    response = interface.send_message("huggingface", PROMPT, SMALL)
    assert response.success
    assert (response.route.backend, str(response.route.reason)) == ("local", "rate_limited")


def test_a_stream(interface, client):
    expected = client.chat_completion(PROMPT, **SMALL).choices[0].message.content
    for stream in (
        interface.stream_message("huggingface", PROMPT, SMALL),
        interface.send_message("huggingface", PROMPT, {**SMALL, "stream": True}),
    ):
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(parts) == expected


def test_the_original_response_is_there_when_asked_for(interface):
    response = interface.send_message(
        "huggingface", PROMPT, SMALL, {"include_original_response": True}
    )
    assert response.original_response.choices[0].message.content.strip() == response.results


def test_a_remote_by_name_and_an_unknown_one(interface, limited):
    with pytest.raises(InvalidRequestError) as caught:
        interface.send_message("openai", PROMPT)
    assert caught.value.argument == "interface_name"
    assert interface.get_all_model_names() == ["huggingface"]


# Embeddings --------------------------------------------------------------------------------------


def test_embeddings(interface, client):
    expected = client.embed(["cost: $$5 and $&", "b"], "small").vectors
    one = interface.embeddings("huggingface", "cost: $$5 and $&", {"model": "small"})
    many = interface.embeddings("huggingface", ["cost: $$5 and $&", "b"], {"model": "small"})
    assert isinstance(one.results[0], float)
    np.testing.assert_allclose(one.results, expected[0], atol=1e-6)
    np.testing.assert_allclose(many.results, expected, atol=1e-6)
    assert one.model == "tiny/all-MiniLM-L6-v2"


def test_embeddings_are_retried(remote_only, fake, slept):
    fake.enqueue(Reply(status=429, json={"error": "slow down"}, retry_after=60))
    with pytest.raises(RateLimitError):
        remote_only.embeddings("huggingface", "a", {"model": "small", "deadline": 20})
    remote_only._account.client.reset()
    fake.enqueue(Reply(status=429, json={"error": "slow down"}, retry_after=60))
    with pytest.raises(RateLimitError):
        remote_only.embeddings(
            "huggingface", "a", {"model": "small", "deadline": 20}, {"retry_attempts": 3}
        )
    assert len(slept) == 2
    assert all(0 < seconds <= 60 for seconds in slept), "the remote's own wait, and no other"


def test_wrong_arguments_are_named(interface):
    for call, argument in (
        (lambda: interface.embeddings("huggingface", "a", {"input": "b"}), "input"),
        (lambda: interface.send_message("huggingface", "a", {"messages": []}), "messages"),
        (lambda: interface.send_message(["huggingface"], "a"), "interface_name"),
        (lambda: interface.send_message("huggingface", 7), "messages"),
        (
            lambda: interface.send_message("huggingface", [{"role": object()}], {}, 60),
            "messages[0].role",
        ),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            call()
        assert caught.value.argument == argument


# Repetitions -------------------------------------------------------------------------------------


def test_a_repetition_asks_the_very_same(remote_only, fake, slept):
    fake.enqueue(Reply(status=500), times=3)  # the router tries three times
    options = dict(SMALL)
    message = {"messages": [{"role": "user", "content": PROMPT}]}
    response = remote_only.send_message("huggingface", message, options, {"retry_attempts": 2})
    assert (response.success, response.retries, response.model) == (True, 1, PHI)
    assert len({json.dumps(request.body_json, sort_keys=True) for request in fake.ledger}) == 1
    assert slept == [0.3]
    assert options == SMALL


def test_waits_double(remote_only, fake, slept):
    fake.enqueue(Reply(status=500), times=None)
    remote_only._account.client.status()
    with pytest.raises(RemoteServerError):
        remote_only.send_message(
            "huggingface", PROMPT, SMALL, {"retry_attempts": 2, "retry_multiplier": 2}
        )
    assert slept == [2.0]


def test_the_callers_mistake_is_not_repeated(interface, slept):
    with pytest.raises(InvalidRequestError):
        interface.send_message("huggingface", PROMPT, {"temperature": 9}, {"retry_attempts": 5})
    assert slept == []


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"retry_attempts": 0}, "retry_attempts"),
        ({"retry_attempts": 1.5}, "retry_attempts"),
        ({"retry_multiplier": -1}, "retry_multiplier"),
        ({"cache_timeout_seconds": float("nan")}, "cache_timeout_seconds"),
        ({"cache_timeout_seconds": "long"}, "cache_timeout_seconds"),
        ({"attempt_json_repair": 1}, "attempt_json_repair"),
        ({"retryAttempts": 3}, "retryAttempts"),
    ],
)
def test_wrong_interface_options_are_named(given, argument):
    with pytest.raises(InvalidRequestError) as caught:
        InterfaceOptions.of(given)
    assert caught.value.argument == argument


# Aliases and keys --------------------------------------------------------------------------------


def test_aliases(interface, fake):
    assert interface.get_model_alias("huggingface", "small") == PHI
    assert interface.get_model_alias("huggingface") == LLAMA
    assert interface.get_embeddings_model_alias("huggingface", "small") == "tiny/all-MiniLM-L6-v2"
    assert interface.get_model_alias("huggingface", "org/name") == "org/name"
    assert interface.set_model_alias("huggingface", "mine", "small")
    assert interface.get_model_alias("huggingface", "mine") == PHI
    assert interface.set_embeddings_model_alias("huggingface", "default", "small")
    interface.send_message("huggingface", "hi", {"model": "mine", "max_tokens": 2})
    assert fake.ledger[-1].body_json["model"] == PHI
    assert len(interface.embeddings("huggingface", "hi").results) == 384
    assert Interface(interface._account.client).get_model_alias("huggingface", "mine") == "mine"


def test_a_key_is_used_and_never_shown(fake, monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_PROFILE", "tiny")
    monkeypatch.setenv("HYBRID_INFER_POLICY", "local-only")
    interface = Interface()
    assert interface.set_api_key({"huggingface": "hf_one"})
    first = interface._account.client
    assert interface.set_api_key("huggingface", "hf_one")
    assert interface._account.client is first
    interface.send_message(["huggingface", "hf_two"], "hi", {"model": "small", "max_tokens": 2})
    assert interface._account.client is not first, "the inline key counts"
    assert interface.set_api_key("huggingface", None)
    assert "hf_" not in repr(vars(interface)) + repr(vars(interface._account))
    interface.close()
    with pytest.raises(InvalidRequestError, match="openai"):
        interface.set_api_key("openai", "sk-x")
    with pytest.raises(InvalidRequestError, match="must be a str"):
        interface.set_api_key("huggingface", 7)


# JSON --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
        ('Sure! ```json\n{"a": {"b": []}}\n``` There.', {"a": {"b": []}}),
        ('Here: {"a": "}"} and more', {"a": "}"}),
        ("an {odd} brace, then [3]", [3]),
        ("no JSON at all", None),
        ("{'a': 1}", None),
    ],
)
def test_json_is_found_in_prose_and_fences(text, expected):
    assert find_json(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'a': 1, b: [1, 2", {"a": 1, "b": [1, 2]}),
        ("```json\n{'a': True,}\n```", {"a": True}),
        ("no JSON at all", None),
    ],
)
def test_json_is_mended(text, expected):
    assert repair_json(text) == expected


@pytest.mark.parametrize("text", ["[" * 5_000, "[" * 5_000 + "]" * 5_000, '{"a": ' * 5_000])
@pytest.mark.parametrize("wrapped", ["{}", "```json\n{}\n```", "It is {} at last"])
def test_json_that_is_too_deep_is_none(text, wrapped):
    assert find_json(wrapped.format(text)) is None
    assert repair_json(wrapped.format(text)) is None


def test_results_are_read_as_json(interface, fake):
    options = {**SMALL, "response_format": "json_object"}
    fake.enqueue(says('The answer: {"a": 1}'))
    assert interface.send_message("huggingface", PROMPT, options).results == {"a": 1}
    fake.enqueue(says("{'a': 1"), times=2)
    broken = interface.send_message("huggingface", PROMPT, options)
    assert (broken.success, broken.results) == (False, None)
    mended = interface.send_message("huggingface", PROMPT, options, {"attempt_json_repair": True})
    assert (mended.success, mended.results) == (True, {"a": 1})
    fake.enqueue(says('{"a": 1}'))
    assert interface.send_message("huggingface", PROMPT, SMALL).results == '{"a": 1}'


def test_json_mode_does_not_cost_the_fallback(interface, limited):
    options = {**SMALL, "response_format": "json_object"}
    assert interface.send_message("huggingface", PROMPT, options).route.backend == "local"


# The cache ---------------------------------------------------------------------------------------


def test_an_answer_is_remembered_for_as_long_as_asked(interface, fake, clock):
    keep = {"cache_timeout_seconds": 60}
    first = interface.send_message("huggingface", PROMPT, SMALL, keep)
    again = interface.send_message("huggingface", PROMPT, SMALL, 60)
    assert (first.cache_type, again.cache_type) == (None, "memory-cache")
    assert again.results == first.results
    assert len(fake.ledger) == 1
    assert interface.send_message("huggingface", PROMPT, SMALL).cache_type is None
    clock.advance(61)
    assert interface.send_message("huggingface", PROMPT, SMALL, keep).cache_type is None


def test_another_question_is_another_answer(interface):
    keep = {"cache_timeout_seconds": 60}
    interface.send_message("huggingface", PROMPT, SMALL, keep)
    for options in ({**SMALL, "max_tokens": 5}, {**SMALL, "model": "default"}):
        assert interface.send_message("huggingface", PROMPT, options, keep).cache_type is None
    assert interface.embeddings("huggingface", PROMPT, {"model": "small"}, keep).cache_type is None
    cached = interface.embeddings("huggingface", PROMPT, {"model": "small"}, keep)
    assert cached.cache_type == "memory-cache"
    cached.results[0] = 99.0
    assert interface.embeddings("huggingface", PROMPT, {"model": "small"}, keep).results[0] != 99.0


def test_the_cache_is_flushed_and_sized(interface):
    keep = {"cache_timeout_seconds": 60}
    interface.send_message("huggingface", PROMPT, SMALL, keep)
    interface.flush_cache()
    assert interface.send_message("huggingface", PROMPT, SMALL, keep).cache_type is None
    interface.configure_cache({"cache": "memory-cache", "config": {"max_entries": 1}})
    interface.send_message("huggingface", PROMPT, SMALL, keep)
    interface.send_message("huggingface", "another", SMALL, keep)
    assert interface.send_message("huggingface", PROMPT, SMALL, keep).cache_type is None
    interface.configure_cache()
    for wrong in ({"cache": "flat-cache"}, {"config": {"max_entries": 0}}):
        with pytest.raises(InvalidRequestError):
            interface.configure_cache(wrong)
