"""Bad input is one typed error naming the argument and index, before any dispatch."""

import math

import numpy as np
import pytest

from hybrid_infer.client.checks import checked_deadline
from hybrid_infer.client.requests import chat_request, embed_request
from hybrid_infer.datatypes.models import GenerationDefaults, ModelSpec
from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.settings import Settings

EMBED = ModelSpec("embeddings", "small", "org/embedder", None, dim=384, max_seq_length=256)
CHAT = ModelSpec(
    "chat",
    "default",
    "org/chatter",
    None,
    context_length=8192,
    generation=GenerationDefaults(1024, temperature=0.6, top_p=0.9),
)


def embed(texts, **options):
    return embed_request(EMBED, texts, **{"normalize": True, "truncate": True, **options})


def chat(messages="hi", **options):
    return chat_request(CHAT, messages, Settings(), **options)


@pytest.mark.parametrize(
    ("texts", "argument"),
    [
        (None, "texts"),
        (b"bytes", "texts"),
        (7, "texts"),
        ({"a": 1}, "texts"),
        (["ok", None], "texts[1]"),
        (["ok", "fine", b"bytes"], "texts[2]"),
        ([1, 2, 3], "texts[0]"),
        ("\ud800", "texts"),
        (["ok", "bad \udfff here"], "texts[1]"),
        ([["nested"]], "texts[0]"),
        (iter(["a"]), "texts"),
    ],
)
def test_bad_texts(texts, argument):
    with pytest.raises(InvalidRequestError) as caught:
        embed(texts)
    assert caught.value.argument == argument


def test_good_texts():
    assert embed([]).texts == ()
    assert embed("").texts == ("",)
    assert embed(["", "a\x00b", "é"]).texts == ("", "a\x00b", "é")
    assert embed(("a", "b")).texts == ("a", "b")
    assert embed(np.array(["a", "b"])).texts == ("a", "b")


@pytest.mark.parametrize("flag", ["normalize", "truncate"])
def test_flags_are_booleans(flag):
    with pytest.raises(InvalidRequestError) as caught:
        embed("a", **{flag: "yes"})
    assert caught.value.argument == flag


def test_an_absurdly_long_text_is_cut_and_counted():
    request = embed(["short", "word " * 1_000_000])
    assert request.cut_texts == {1}
    assert len(request.texts[1]) < 2_000


def test_an_absurdly_long_text_without_truncation_is_refused():
    with pytest.raises(ContextLengthError, match="256") as caught:
        embed(["short", "word " * 1_000_000], truncate=False)
    assert caught.value.argument == "texts[1]"


@pytest.mark.parametrize(
    ("messages", "argument"),
    [
        (None, "messages"),
        ([], "messages"),
        (7, "messages"),
        (b"hi", "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": "wizard", "content": "hi"}], "messages[0].role"),
        ([{"role": ["user"], "content": "hi"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": "x", "contnet": "y"}], "messages[0].contnet"),
        ([{"role": "user", "content": "x", "name": "\ud800"}], "messages[0].name"),
        (
            [{"role": "user", "content": [{"type": "text", "text": 5}]}],
            "messages[0].content[0].text",
        ),
        ("\ud800", "messages"),
    ],
)
def test_bad_messages(messages, argument):
    with pytest.raises(InvalidRequestError) as caught:
        chat(messages)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "12"),
        ("temperature", -1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", 2),
        ("top_p", 0),
        ("top_p", -0.1),
        ("top_k", 0),
        ("top_k", -5),
        ("seed", -1),
        ("seed", 2**63),
        ("temperature", 10**400),
        ("stop", ""),
        ("stop", 5),
        ("stop", ["x"] * 99),
        ("stream", 1),
        ("stream_options", {"include_usage": True}),
        ("on_stream_error", "shrug"),
    ],
)
def test_bad_options(option, value):
    with pytest.raises(InvalidRequestError) as caught:
        chat(**{option: value})
    assert caught.value.argument == option


def test_stop_names_the_index():
    with pytest.raises(InvalidRequestError) as caught:
        chat(stop=["fine", ""])
    assert caught.value.argument == "stop[1]"


def test_defaults_of_the_alias_are_filled_in():
    request = chat("hi")
    assert (request.max_tokens, request.max_tokens_is_default) == (1024, True)
    assert (request.temperature, request.top_p, request.top_k) == (0.6, 0.9, None)
    assert request.messages == ({"role": "user", "content": "hi"},)


def test_given_options_win_over_defaults():
    request = chat(max_tokens=5, temperature=0, top_p=1.0, top_k=3, stop="END", seed=0)
    assert (request.max_tokens, request.max_tokens_is_default) == (5, False)
    assert (request.temperature, request.top_p, request.top_k) == (0.0, 1.0, 3)
    assert (request.stop, request.seed) == (("END",), 0)


def test_numpy_numbers_are_numbers():
    request = chat(max_tokens=np.int64(5), temperature=np.float32(0.5))
    assert request.max_tokens == 5
    assert type(request.max_tokens) is int
    assert type(request.temperature) is float


def test_the_default_max_tokens_shrinks_with_the_window():
    assert chat("x" * 100).max_tokens == 1024
    assert 16 <= chat("word " * 4_600).max_tokens < 1024
    assert chat("word " * 90_000).max_tokens == 16


def test_parts_that_are_all_text_become_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat([{"role": "user", "content": parts}]).messages[0]["content"] == "ab"


@pytest.mark.parametrize("value", [math.nan, "\ud800", object(), {"a": {1, 2}}])
def test_what_is_passed_through_must_be_json(value):
    with pytest.raises(InvalidRequestError) as caught:
        chat(passthrough={"fine": 1, "option": value})
    assert caught.value.argument == "option"


def test_max_tokens_beyond_the_window_is_refused_before_any_dispatch():
    with pytest.raises(ContextLengthError, match="8192") as caught:
        chat(max_tokens=10**30)
    assert caught.value.argument == "max_tokens"


@pytest.mark.parametrize("deadline", [0, -1, math.inf, math.nan, "5", True])
def test_bad_deadlines(deadline):
    with pytest.raises(InvalidRequestError) as caught:
        checked_deadline(deadline)
    assert caught.value.argument == "deadline"


def test_what_asks_for_nothing_is_left_out():
    nothing = {"tools": [], "n": 1, "response_format": {"type": "text"}, "logprobs": False}
    assert chat(passthrough=nothing).passthrough == {}
    assert chat(passthrough={"n": 2}).passthrough == {"n": 2}


@pytest.mark.parametrize(
    ("option", "value"), [("tools", "x"), ("tools", ["x"]), ("response_format", 3)]
)
def test_known_options_have_their_shapes(option, value):
    with pytest.raises(InvalidRequestError) as caught:
        chat(passthrough={option: value})
    assert caught.value.argument == option


def test_a_prompt_that_no_tokenizer_could_fit_is_refused_at_once():
    with pytest.raises(ContextLengthError, match="5,000,000") as caught:
        chat("x" * 5_000_000)
    assert caught.value.argument == "messages"
