"""The backend over real TCP: what is sent, what is made of answers, what is in flight."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from hybrid_infer.errors import (
    ContextLengthError,
    EngineClosedError,
    ModelNotAvailableError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
)


def unit(*numbers: float) -> list[float]:
    vector = np.array(numbers)
    return (vector / np.linalg.norm(vector)).tolist()


def vector_of(text: str) -> list[float]:
    return unit(float(text), 1.0, 2.0, 3.0)


def embed_behaviour(wire):
    def behaviour(request):
        return wire.answer([vector_of(text) for text in request.document["inputs"]])

    return behaviour


def test_chat_goes_out_as_the_router_expects_and_comes_back_typed(
    wire, make_server, make_backend, caller
):
    server = make_server(wire.answer(wire.completion("hi")))
    backend = make_backend(server.url + "/prefix")
    request = wire.chat_request(
        temperature=0.5, top_k=7, stop=("END",), seed=3, passthrough={"logprobs": True, "n": 1}
    )
    reply = caller.call(backend, request, wire.deadline())
    received = server.received[0]
    assert received.path == "/prefix/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {wire.canary}"
    assert received.headers["host"] == f"127.0.0.1:{server.port}"
    assert received.document == {
        "logprobs": True,
        "n": 1,
        "model": "org/chat-model",
        "messages": [{"role": "user", "content": "What is low latency?"}],
        "max_tokens": 16,
        "temperature": 0.5,
        "top_k": 7,
        "stop": ["END"],
        "seed": 3,
        "stream": False,
    }
    assert reply.id == "chatcmpl-1"
    assert reply.choices[0].message.content == "hi"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 2)
    assert reply.provenance.verified
    assert reply.provenance.model == "org/chat-model"


def test_embeddings_go_to_the_feature_extraction_pipeline(wire, make_server, make_backend, caller):
    server = make_server(behaviour=embed_behaviour(wire))
    request = wire.embed_request("1", "2", truncate=False)
    reply = caller.call(make_backend(server.url), request, wire.deadline())
    assert server.received[0].path == (
        "/hf-inference/models/org/embed-model/pipeline/feature-extraction"
    )
    assert server.received[0].document == {
        "inputs": ["1", "2"],
        "normalize": True,
        "truncate": False,
    }
    np.testing.assert_allclose(reply.vectors, [vector_of("1"), vector_of("2")], atol=1e-6)
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    assert not reply.provenance.verified
    assert reply.prompt_tokens is None


def test_a_prompt_goes_before_every_text(wire, make_server, make_backend):
    server = make_server(wire.answer([vector_of("1")]))
    make_backend(server.url).call(wire.embed_request("1", prompt="query: "), wire.deadline())
    assert server.received[0].document["inputs"] == ["query: 1"]


def test_non_ascii_text_is_sent_as_utf_8(wire, make_server, make_backend):
    server = make_server(wire.answer([vector_of("1")]))
    make_backend(server.url).call(wire.embed_request("naïve 東京"), wire.deadline())
    assert "東京".encode() in server.received[0].body


def test_chunks_keep_their_order(wire, make_server, make_backend, caller):
    server = make_server(behaviour=embed_behaviour(wire))
    backend = make_backend(server.url, wire.settings(batch=3, in_flight=4))
    texts = [str(number) for number in range(50)]
    reply = caller.call(backend, wire.embed_request(*texts), wire.deadline())
    expected = [vector_of(text) for text in texts]
    np.testing.assert_allclose(reply.vectors, expected, atol=1e-6)
    assert sorted(len(request.document["inputs"]) for request in server.received) == [2, *[3] * 16]


def test_no_more_chunks_are_in_flight_than_allowed_and_no_fewer(
    wire, make_server, make_backend, caller
):
    gate = threading.Event()
    server = make_server()

    def behaviour(request):
        answer = wire.answer([vector_of(text) for text in request.document["inputs"]])
        answer.gate = gate
        if len(server.received) >= 3:
            gate.set()
        return answer

    server.behaviour = behaviour
    backend = make_backend(server.url, wire.settings(batch=1, in_flight=3))
    texts = [str(number) for number in range(12)]
    reply = caller.call(backend, wire.embed_request(*texts), wire.deadline())
    assert len(reply.vectors) == 12
    assert server.most_in_flight == 3


def test_the_first_failing_chunk_ends_the_others(wire, make_server, make_backend, caller):
    server = make_server()

    def behaviour(request):
        if request.document["inputs"] == ["2"]:
            server.wait_for_requests(3)
            return wire.answer({"error": "slow down"}, 429, Retry_After="7")
        return wire.Answer([], then="hang")

    server.behaviour = behaviour
    backend = make_backend(server.url, wire.settings(batch=1, in_flight=3))
    texts = [str(number) for number in range(9)]
    with pytest.raises(RateLimitError) as caught:
        caller.call(backend, wire.embed_request(*texts), wire.deadline(20))
    assert caught.value.retry_after == 7
    assert len(server.received) == 3


def test_a_chunk_that_is_too_large_is_halved(wire, make_server, make_backend, caller):
    def behaviour(request):
        texts = request.document["inputs"]
        if len(texts) > 2:
            return wire.answer({"error": "too large"}, 413)
        return wire.answer([vector_of(text) for text in texts])

    server = make_server(behaviour=behaviour)
    texts = [str(number) for number in range(5)]
    reply = caller.call(make_backend(server.url), wire.embed_request(*texts), wire.deadline())
    np.testing.assert_allclose(reply.vectors, [vector_of(text) for text in texts], atol=1e-6)


def test_one_text_that_is_too_large_is_an_error_that_keeps_its_status(
    wire, make_server, make_backend, caller
):
    server = make_server(behaviour=lambda _: wire.answer({"error": "too large"}, 413))
    with pytest.raises(RemoteServerError) as caught:
        caller.call(make_backend(server.url), wire.embed_request("1", "2"), wire.deadline())
    assert caught.value.status == 413
    assert len(server.received) == 2  # the whole, then its first half


def test_no_texts_give_no_rows_and_no_request(wire, make_server, make_backend, caller):
    server = make_server()
    reply = caller.call(make_backend(server.url), wire.embed_request(), wire.deadline())
    assert reply.vectors.shape == (0, 4)
    assert server.received == []


def test_chunks_of_different_dimensions_are_refused(wire, make_server, make_backend, caller):
    from dataclasses import replace

    def behaviour(request):
        long = request.document["inputs"] == ["2"]
        return wire.answer([unit(1, 2, 3) if long else unit(1, 2)])

    server = make_server(behaviour=behaviour)
    spec = replace(wire.embed_spec, dim=None)
    backend = make_backend(server.url, wire.settings(batch=1))
    with pytest.raises(RemoteProtocolError, match="several lengths"):
        caller.call(backend, wire.embed_request("1", "2", spec=spec), wire.deadline())


def test_the_remote_s_own_name_for_a_model_is_used(wire, make_server, make_backend):
    server = make_server(wire.answer(wire.completion(model="llama")))
    backend = make_backend(server.url, models=(("chat/small", "llama"),))
    reply = backend.call(wire.chat_request(), wire.deadline())
    assert server.received[0].document["model"] == "llama"
    assert reply.provenance.verified
    with pytest.raises(ModelNotAvailableError):
        backend.call(wire.embed_request("1"), wire.deadline())


def test_a_remote_that_names_another_model_is_not_verified(wire, make_server, make_backend):
    server = make_server(wire.answer(wire.completion(model="other/model")))
    reply = make_backend(server.url).call(wire.chat_request(), wire.deadline())
    assert not reply.provenance.verified


def test_a_caller_s_mistake_is_told_apart(wire, make_server, make_backend, caller):
    body = {
        "error": "`inputs` must have less than 512 tokens. Given: 600",
        "error_type": "Validation",
    }
    server = make_server(wire.answer(body, 422))
    with pytest.raises(ContextLengthError) as caught:
        caller.call(make_backend(server.url), wire.embed_request("1"), wire.deadline())
    assert caught.value.status == 422


def test_a_closed_backend_refuses_calls(wire, make_server, make_backend, caller):
    server = make_server(wire.answer(wire.completion()))
    backend = make_backend(server.url)
    caller.call(backend, wire.chat_request(), wire.deadline())
    backend.close()
    backend.close()
    with pytest.raises(EngineClosedError):
        caller.call(backend, wire.chat_request(), wire.deadline())
    with pytest.raises(EngineClosedError):
        raise caller.parts(backend, wire.chat_request(stream=True), wire.deadline())[1]
    assert len(server.received) == 1


def test_closing_ends_calls_in_flight(wire, make_server, make_backend):
    server = make_server(wire.Answer([], then="hang"))
    backend = make_backend(server.url)
    errors: list[Exception] = []

    def call() -> None:
        try:
            backend.call(wire.chat_request(), wire.deadline())
        except EngineClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    server.wait_for_requests(1)
    backend.close()
    thread.join(10)
    assert len(errors) == 1


def test_a_warm_connection_is_used_again(wire, make_server, make_backend):
    server = make_server(*[wire.answer(wire.completion()) for _ in range(5)])
    backend = make_backend(server.url)
    for _ in range(5):
        backend.call(wire.chat_request(), wire.deadline())
    assert server.num_connections == 1


def test_many_threads_share_a_backend(wire, make_server, make_backend):
    server = make_server(behaviour=embed_behaviour(wire))
    backend = make_backend(server.url, wire.settings(batch=2))
    wrong: list[int] = []

    def call(number: int) -> None:
        texts = [str(number * 10 + place) for place in range(5)]
        reply = backend.call(wire.embed_request(*texts), wire.deadline())
        expected = [vector_of(text) for text in texts]
        if not np.allclose(reply.vectors, expected, atol=1e-6):
            wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(server.received) == 12 * 3
