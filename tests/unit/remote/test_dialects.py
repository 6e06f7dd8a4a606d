"""What openai and tei put on the wire, over real TCP, and what they make of the answers."""

from __future__ import annotations

import base64
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import (
    ContextLengthError,
    InvalidRequestError,
    ModelNotAvailableError,
    RemoteProtocolError,
    RemoteServerError,
)
from hybrid_infer.remote.dialects import SPEECHES, refusal_of_option
from hybrid_infer.remote.responses import Asked
from hybrid_infer.remote.vectors import checked_vectors

VECTORS = np.eye(4, dtype=np.float32)[:3]


def as_base64(vector):
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def entries(*, order=(0, 1, 2), encode=list):
    return [{"index": i, "embedding": encode(VECTORS[i].astype(float))} for i in order]


def listing(data, **more):
    return {"object": "list", "data": data, **more}


def embed(caller, make_backend, server, wire, *texts, **options):
    backend = make_backend(server.url, dialect=options.pop("dialect", "openai"))
    return caller.call(backend, wire.embed_request(*texts, **options), wire.deadline())


def test_every_dialect_of_the_configuration_has_its_row():
    from typing import get_args

    from hybrid_infer.datatypes.models import Dialect

    assert set(SPEECHES) == set(get_args(Dialect))


@pytest.mark.parametrize("root", ["", "/v1", "/v1/", "/prefix", "/prefix/v1"])
@pytest.mark.parametrize("dialect", ["openai", "hf-router"])
def test_chat_is_found_under_either_root(wire, make_server, make_backend, caller, root, dialect):
    server = make_server(wire.answer(wire.completion("hi")))
    backend = make_backend(server.url + root, dialect=dialect)
    reply = caller.call(backend, wire.chat_request(top_k=3), wire.deadline())
    received = server.received[0]
    prefix = root.rstrip("/").removesuffix("/v1")
    assert received.path == f"{prefix}/v1/chat/completions"
    assert (received.document["model"], received.document["top_k"]) == ("org/chat-model", 3)
    assert reply.choices[0].message.content == "hi"


def test_a_root_that_only_looks_like_v1_is_kept(wire, make_server, make_backend):
    server = make_server(wire.answer(wire.completion()))
    backend = make_backend(server.url + "/api-v1", dialect="openai")
    backend.call(wire.chat_request(), wire.deadline())
    assert server.received[0].path == "/api-v1/v1/chat/completions"


def test_openai_embeddings_go_out_as_openai_s_own_clients_send_them(
    wire, make_server, make_backend, caller
):
    answer = wire.answer(listing(entries(encode=as_base64), usage={"prompt_tokens": 9}))
    server = make_server(answer)
    reply = embed(caller, make_backend, server, wire, "a", "b", "c", prompt="query: ")
    assert server.received[0].path == "/v1/embeddings"
    assert server.received[0].document == {
        "model": "org/embed-model",
        "input": ["query: a", "query: b", "query: c"],
        "encoding_format": "base64",
    }
    np.testing.assert_array_equal(reply.vectors, VECTORS)
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    assert reply.vectors.flags.writeable
    assert reply.prompt_tokens == 9


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("encode", [list, as_base64])
def test_vectors_are_put_in_the_order_of_their_index(
    wire, make_server, make_backend, caller, order, encode
):
    server = make_server(wire.answer(listing(entries(order=order, encode=encode))))
    reply = embed(caller, make_backend, server, wire, "a", "b", "c")
    np.testing.assert_array_equal(reply.vectors, VECTORS)
    assert reply.prompt_tokens is None


def test_entries_without_an_index_are_in_order(wire, make_server, make_backend, caller):
    data = [{"embedding": vector.tolist()} for vector in VECTORS]
    server = make_server(wire.answer(listing(data)))
    reply = embed(caller, make_backend, server, wire, "a", "b", "c")
    np.testing.assert_array_equal(reply.vectors, VECTORS)


def test_token_counts_of_many_requests_are_summed(wire, make_server, make_backend, caller):
    def behaviour(request):
        count = len(request.document["input"])
        data = [{"index": i, "embedding": [1.0, 0.0, 0.0, 0.0]} for i in range(count)]
        return wire.answer(listing(data, usage={"prompt_tokens": 2 * count}))

    server = make_server(behaviour=behaviour)
    backend = make_backend(server.url, wire.settings(batch=3), dialect="openai")
    reply = caller.call(backend, wire.embed_request(*map(str, range(10))), wire.deadline())
    assert reply.prompt_tokens == 20
    assert len(server.received) == 4


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"data": None},
        {"data": ["x"]},
        listing([]),
        listing(entries(order=(0, 1))),
        listing(entries(order=(0, 1, 1))),
        listing([*entries(), *entries(order=(0,))]),
        listing([{"index": i + 1, "embedding": [1, 0, 0, 0]} for i in range(3)]),
        listing([{"index": "0", "embedding": [1, 0, 0, 0]} for _ in range(3)]),
        listing([{"index": bool(i), "embedding": [1, 0, 0, 0]} for i in range(3)]),
        listing([{"index": i} for i in range(3)]),
        listing([{"index": i, "embedding": "not base64"} for i in range(3)]),
        listing([{"index": i, "embedding": "²"} for i in range(3)]),
        listing([{"index": i, "embedding": "AAAA"} for i in range(3)]),
        listing([{"index": i, "embedding": ""} for i in range(3)]),
        listing([{"index": i, "embedding": as_base64(np.full(4, np.nan))} for i in range(3)]),
        listing([{"index": i, "embedding": [3.0, 4.0, 0.0, 0.0]} for i in range(3)]),
    ],
)
def test_an_answer_of_another_shape_is_refused(wire, make_server, make_backend, caller, document):
    server = make_server(wire.answer(document))
    backend = make_backend(server.url, dialect="openai")
    error = caller.failure(backend, wire.embed_request("a", "b", "c"))
    assert isinstance(error, RemoteProtocolError)
    assert error.status == 200
    wire.assert_clean(error)
    assert len(server.received) == 1


def test_tei_is_asked_at_its_own_path(wire, make_server, make_backend, caller):
    server = make_server(wire.answer(VECTORS.tolist()))
    reply = embed(caller, make_backend, server, wire, "a", "b", "c", dialect="tei", normalize=False)
    assert server.received[0].path == "/embed"
    assert server.received[0].document == {
        "inputs": ["a", "b", "c"],
        "normalize": False,
        "truncate": True,
    }
    np.testing.assert_array_equal(reply.vectors, VECTORS)


def test_tei_serves_no_chat(wire, make_server, make_backend, caller):
    server = make_server()
    assert RemoteSpec("box", "tei", server.url).model_id(wire.chat_request().spec) is None
    error = caller.failure(make_backend(server.url, dialect="tei"))
    assert isinstance(error, ModelNotAvailableError)
    assert server.received == []


def test_a_batch_that_tei_finds_too_large_is_split(wire, make_server, make_backend, caller):
    def behaviour(request):
        texts = request.document["inputs"]
        if len(texts) > 2:
            problem = f"batch size {len(texts)} > maximum allowed batch size 2"
            return wire.answer({"error": problem, "error_type": "Validation"}, 413)
        return wire.answer([[1.0, float(text), 0.0, 0.0] for text in texts])

    server = make_server(behaviour=behaviour)
    reply = embed(caller, make_backend, server, wire, *"0123456", dialect="tei", normalize=False)
    assert reply.vectors[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("option", ["normalize", "truncate"])
def test_what_openai_s_api_has_no_word_for_is_never_left_out_silently(
    wire, make_server, make_backend, caller, option
):
    server = make_server()
    request = wire.embed_request("a", **{option: False})
    remotes = {dialect: RemoteSpec("box", dialect, server.url) for dialect in SPEECHES}
    refusal = refusal_of_option(remotes["openai"], request)
    assert refusal is not None
    assert refusal.argument == option
    assert refusal_of_option(remotes["hf-router"], request) is None
    assert refusal_of_option(remotes["tei"], request) is None
    assert refusal_of_option(remotes["openai"], wire.chat_request()) is None
    with pytest.raises(InvalidRequestError, match="dialect openai") as caught:
        caller.call(make_backend(server.url, dialect="openai"), request, wire.deadline())
    assert caught.value.argument == option
    assert server.received == []


@pytest.mark.parametrize(("dialect", "status"), [("openai", 413), ("tei", 400)])
def test_a_server_that_cannot_be_asked_to_cut_is_the_wrong_target_not_a_wrong_text(
    wire, make_server, make_backend, caller, dialect, status
):
    body = {"error": {"message": "This model's maximum context length is 256 tokens."}}
    server = make_server(wire.answer(body, 400))
    with pytest.raises(ContextLengthError) as caught:
        embed(caller, make_backend, server, wire, "a", "b", dialect=dialect)
    assert caught.value.status == status  # 413 is what lets the next target try
    assert len(server.received) == 1


def test_a_provider_is_pinned_on_the_router_only(wire):
    spec = replace(wire.chat_request().spec, provider="together")
    url = "http://127.0.0.1:1"
    mapped = RemoteSpec("a", "hf-router", url, models=((spec.name, "other/name"),))
    assert RemoteSpec("a", "hf-router", url).model_id(spec) == "org/chat-model:together"
    assert RemoteSpec("a", "openai", url).model_id(spec) == "org/chat-model"
    assert mapped.model_id(spec) == "other/name"


@pytest.mark.parametrize(
    ("named", "model_id", "is_verified"),
    [
        ("org/chat-model", "org/chat-model", True),
        ("org/chat-model:together", "org/chat-model", True),
        ("ORG/Chat-Model", "org/chat-model:together", True),
        ("llama3:8b", "llama3:8b", True),
        ("llama3:8b-q4", "llama3:8b", False),
        ("org/other", "org/chat-model", False),
    ],
)
def test_a_reply_is_verified_by_the_name_in_it(
    wire, make_server, make_backend, caller, named, model_id, is_verified
):
    server = make_server(wire.answer(wire.completion(model=named)))
    spec = wire.chat_request().spec
    backend = make_backend(server.url, dialect="openai", models=((spec.name, model_id),))
    reply = caller.call(backend, wire.chat_request(), wire.deadline())
    assert server.received[0].document["model"] == model_id
    assert reply.provenance.verified is is_verified


@pytest.mark.parametrize(
    ("status", "kind"), [("Backend", RemoteServerError), ("Unhealthy", RemoteServerError)]
)
def test_tei_s_own_words_for_its_failures(wire, make_server, make_backend, caller, status, kind):
    code = {"Backend": 424, "Unhealthy": 503}[status]
    server = make_server(wire.answer({"error": "no", "error_type": status}, code))
    with pytest.raises(kind) as caught:
        embed(caller, make_backend, server, wire, "a", dialect="tei")
    assert type(caught.value) is kind
    assert caught.value.status == code


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["index", "embedding", "data", "usage"]), inner)
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 3) | JSON_VALUES,
        "embedding": st.lists(st.floats() | st.integers(), max_size=5) | JSON_VALUES,
    },
)


@pytest.mark.parametrize("dialect", list(SPEECHES))
@given(
    document=JSON_VALUES
    | st.fixed_dictionaries({"data": st.lists(ENTRIES, max_size=4)})
    | st.lists(st.lists(st.floats(), max_size=5), max_size=4)
)
def test_whatever_json_comes_is_vectors_or_a_typed_error(dialect, document):
    spec = ModelSpec("embeddings", "small", "org/embed-model", None, dim=4)
    request = EmbedRequest(spec, ("a", "b", "c"))
    try:
        embedded = SPEECHES[dialect].response(request, document)
    except ValueError:
        return  # which the backend makes a RemoteProtocolError
    try:
        vectors = checked_vectors(embedded.rows, request, 0.02, Asked("host", "org/embed-model"))
    except RemoteProtocolError:
        return
    assert vectors.shape == (3, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
