"""The store on its own: keys, bounds, copies, what is dropped."""

import threading

import numpy as np
import pytest

from hybrid_infer import HybridClient
from hybrid_infer.cache import (
    LatestEntries,
    ResponseCache,
    chat_key,
    is_cacheable,
    vector_keys,
)
from hybrid_infer.client.requests import chat_request, embed_request
from hybrid_infer.datatypes.chat import ChatChoice, ChatCompletion, ChatMessage, ChatUsage
from hybrid_infer.datatypes.embeddings import EmbeddingSpace
from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.datatypes.route import Reason, Route
from hybrid_infer.errors import ConfigError
from hybrid_infer.settings import Settings

EMBED = ModelSpec("embeddings", "small", "org/embedder", "a" * 40, dim=3, max_seq_length=256)
CHAT = ModelSpec("chat", "small", "org/chatter", "b" * 40, context_length=4096)


def route(provider):
    return Route(
        backend="local" if provider is None else "remote", provider=provider, model="org/embedder",
        revision=None, verified=False, reason=Reason.PRIMARY, detail="", attempts=(),
        latency_seconds=0.1,
    )  # fmt: skip


def answer(provider=None, logprobs=None):
    choice = ChatChoice(0, ChatMessage("assistant", "hello"), "stop", logprobs)
    return ChatCompletion("id", 1, "org/chatter", (choice,), ChatUsage(1, 2), route(provider))


def embed(texts=("a",), spec=EMBED, **options):
    return embed_request(spec, list(texts), **{"normalize": True, "truncate": True, **options})


def keys(request):
    space = EmbeddingSpace.of(request.spec, normalize=request.normalize, dim=3)
    return vector_keys(request, space)


def chat(messages="hi", spec=CHAT, **options):
    return chat_request(spec, messages, Settings(), **{"temperature": 0, **options})


def test_the_least_recently_used_is_forgotten():
    entries = LatestEntries(2)
    entries.put([("a", 1), ("b", 2)], epoch=0)
    assert entries.find(["a"]) == [1]
    entries.put([("c", 3)], epoch=0)
    assert entries.find(["a", "b", "c"]) == [1, None, 3]
    assert len(entries) == 2


def test_what_was_asked_for_before_a_drop_is_not_kept():
    entries = LatestEntries(2)
    entries.put([("a", 1), ("b", 2)], epoch=0)
    entries.drop(lambda value: value == 1)
    assert entries.find(["a", "b"]) == [None, 2]
    entries.put([("a", 1)], epoch=0)
    assert entries.find(["a"]) == [None]
    entries.put([("a", 1)], epoch=entries.epoch)
    assert entries.find(["a"]) == [1]


def test_a_vector_is_a_copy_that_nobody_can_write_to():
    cache = ResponseCache(8)
    vectors = np.ones((2, 3), np.float32)
    cache.put_vectors([b"a", b"b"], vectors, route(None), cache.epoch)
    vectors[:] = 7
    first, second = cache.vectors([b"a", b"b"])
    assert first.vector.tolist() == second.vector.tolist() == [1, 1, 1]
    assert first.vector.base is None, "a view would keep the whole call's array alive"
    with pytest.raises(ValueError, match="read-only"):
        first.vector[0] = 2


def test_an_answer_is_a_copy_both_ways():
    cache = ResponseCache(8)
    logprobs = {"content": [1]}
    cache.put_answer(b"a", answer(logprobs=logprobs), cache.epoch)
    logprobs["content"].append(2)
    cache.answer(b"a").choices[0].logprobs["content"].append(3)
    assert cache.answer(b"a").choices[0].logprobs == {"content": [1]}


def test_a_remote_that_is_not_trusted_is_forgotten():
    cache = ResponseCache(8)
    cache.put_vectors([b"a"], np.ones((1, 3), np.float32), route("good"), cache.epoch)
    cache.put_vectors([b"b"], np.ones((1, 3), np.float32), route("bad"), cache.epoch)
    cache.put_answer(b"c", answer("bad"), cache.epoch)
    before = cache.epoch
    cache.forget("bad")
    assert [entry is None for entry in cache.vectors([b"a", b"b"])] == [False, True]
    assert cache.answer(b"c") is None
    cache.put_answer(b"c", answer("bad"), before)
    assert cache.answer(b"c") is None, "it was being answered when it was forgotten"


def test_vectors_and_answers_never_stand_in_for_each_other():
    cache = ResponseCache(8)
    cache.put_answer(b"a", answer(), cache.epoch)
    assert cache.vectors([b"a"]) == [None]


def test_keys_hold_no_text():
    (key,) = keys(embed(["a very private text"]))
    assert isinstance(key, bytes)
    assert len(key) == 32
    assert len(chat_key(chat("a very private text"))) == 32


EMBEDS = [
    embed(["a"]),
    embed(["b"]),
    embed([""]),
    embed(["a"], normalize=False),
    embed(["a"], truncate=False),
    embed(["a"], ModelSpec("embeddings", "small", "org/other", "a" * 40, dim=3)),
    embed(["a"], ModelSpec("embeddings", "small", "org/embedder", "c" * 40, dim=3)),
    embed(["a"], ModelSpec("embeddings", "small", "org/embedder", "a" * 40, pooling="cls", dim=3)),
]
CHATS = [
    chat(),
    chat("ho"),
    chat([{"role": "system", "content": "hi"}]),
    chat(max_tokens=7),
    chat(temperature=0.5, seed=1),
    chat(temperature=0.5, seed=2),
    chat(top_p=0.5),
    chat(top_k=3),
    chat(stop="x"),
    chat(stop=["x", "y"]),
    chat(passthrough={"presence_penalty": 0.5}),
    chat(passthrough={"response_format": {"type": "json_object"}}),
    chat(spec=ModelSpec("chat", "small", "org/other", "b" * 40, context_length=4096)),
    chat(spec=ModelSpec("chat", "small", "org/chatter", "c" * 40, context_length=4096)),
    chat(spec=ModelSpec("chat", "s", "org/chatter", "b" * 40, 4096, provider="together")),
    chat(spec=ModelSpec("chat", "s", "org/chatter", "b" * 40, gguf=GgufFile("a-Q4_0.gguf"))),
    chat(spec=ModelSpec("chat", "s", "org/chatter", "b" * 40, gguf=GgufFile("a-Q8_0.gguf"))),
]


def test_whatever_changes_an_answer_changes_its_key():
    assert len({keys(request)[0] for request in EMBEDS}) == len(EMBEDS)
    assert len({chat_key(request) for request in CHATS}) == len(CHATS)


def test_the_same_request_has_the_same_key():
    same = ModelSpec("embeddings", "default", "org/embedder", "a" * 40, dim=3, max_seq_length=256)
    assert keys(embed(["x", "a"]))[1:] == keys(embed(["a"], same)), "an alias is no other model"
    ordered = {"temperature": 0, "passthrough": {"presence_penalty": 1, "frequency_penalty": 2}}
    turned = {"temperature": 0, "passthrough": {"frequency_penalty": 2, "presence_penalty": 1}}
    assert chat_key(chat(**ordered)) == chat_key(chat(**turned))
    number, text = ({"logit_bias": {key: 1, "7": 2}} for key in (5, "5"))
    assert chat_key(chat(passthrough=number)) == chat_key(chat(passthrough=text))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (embed(), True),
        (embed(spec=ModelSpec("embeddings", None, "org/embedder", None)), False),
        (chat(), True),
        (chat(temperature=0.0), True),
        (chat(temperature=0.7), False),
        (chat(temperature=0.7, seed=0), True),
        (chat(temperature=None), False),
        (chat(stream=True), False),
        (chat(spec=ModelSpec("chat", None, "org/chatter", None)), False),
    ],
)
def test_what_may_be_kept(request_, expected):
    assert is_cacheable(request_) is expected


@pytest.mark.parametrize("cache", [0, -1, True, 1.5, "many"])
def test_a_size_is_a_positive_number_of_entries(cache):
    with pytest.raises(ConfigError, match="cache must be"):
        HybridClient(profile="tiny", cache=cache)


def test_threads_share_it_within_its_bound():
    entries = LatestEntries(10)
    barrier = threading.Barrier(8)
    wrong = []

    def work(number):
        barrier.wait()
        for i in range(500):
            key = (number + i) % 40
            entries.put([(key, key + 1)], epoch=0)
            (found,) = entries.find([key])
            if found not in (None, key + 1) or len(entries) > 10:
                wrong.append((key, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(entries) == 10
