"""Faults on the wire, byte by byte: each becomes one typed error, without the key."""

from __future__ import annotations

import json

import pytest

from hybrid_infer.errors import (
    RateLimitError,
    RemoteProtocolError,
)


def test_a_reply_cut_at_any_byte_is_a_protocol_error(wire, make_server, make_backend, caller):
    reply = wire.json(wire.completion())
    head_end = reply.index(b"\r\n\r\n")
    cuts = range(len(reply))
    server = make_server(*[wire.Answer([reply[:cut]], then="close") for cut in cuts])
    backend = make_backend(server.url)
    for cut in cuts:
        error = caller.failure(backend)
        assert type(error) is RemoteProtocolError, f"cut at {cut} of {len(reply)}"
        assert error.status is None, f"cut at {cut}, head ends at {head_end}"
        wire.assert_clean(error)
    assert len(server.received) == len(reply)


def test_a_chunked_reply_cut_at_any_byte_is_a_protocol_error(wire, make_server, make_backend):
    body = json.dumps(wire.completion()).encode()
    head = wire.head(200, {"Transfer-Encoding": "chunked"})
    reply = head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    server = make_server(*[wire.Answer([reply[:cut]], then="close") for cut in range(len(reply))])
    backend = make_backend(server.url)
    for cut in range(len(reply)):
        with pytest.raises(RemoteProtocolError):
            backend.call(wire.chat_request(), wire.deadline())
        assert len(server.received) == cut + 1


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\n"])
def test_a_reset_is_a_protocol_error(wire, make_server, make_backend, caller, sent):
    server = make_server(wire.Answer([sent], then="reset"))
    error = caller.failure(make_backend(server.url))
    assert type(error) is RemoteProtocolError
    wire.assert_clean(error)


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc Bad\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"\x00" * 1000,
    ],
    ids=range(8),
)
def test_what_is_not_http_is_a_protocol_error(wire, make_server, make_backend, caller, reply):
    server = make_server(wire.Answer([reply], then="close"))
    error = caller.failure(make_backend(server.url))
    assert type(error) is RemoteProtocolError
    wire.assert_clean(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(wire, make_server, make_backend, caller, status):
    second = make_server()
    first = make_server(wire.answer({}, status, Location=second.url + "/v1/chat/completions"))
    error = caller.failure(make_backend(first.url))
    assert type(error) is RemoteProtocolError
    assert error.status == status
    assert second.received == []
    assert second.num_connections == 0


def test_a_body_larger_than_allowed(wire, make_server, make_backend, caller):
    server = make_server(wire.Answer([wire.raw(b" " * 100_000)]))
    backend = make_backend(server.url, wire.settings(body_bytes=50_000))
    error = caller.failure(backend)
    assert type(error) is RemoteProtocolError
    assert "50000 bytes" in error.message


def test_a_gzip_bomb_stops_at_the_limit(wire, make_server, make_backend, caller):
    bomb = wire.gzipped(b"[" + b"0," * 40_000_000 + b"0]")
    assert len(bomb) < 1_000_000
    server = make_server(wire.Answer([bomb]))
    error = caller.failure(make_backend(server.url, wire.settings(body_bytes=1 << 20)))
    assert type(error) is RemoteProtocolError
    assert "larger" in error.message


def test_gzip_is_understood(wire, make_server, make_backend, caller):
    server = make_server(wire.Answer([wire.gzipped(json.dumps(wire.completion()).encode())]))
    reply = caller.call(make_backend(server.url), wire.chat_request(), wire.deadline())
    assert reply.choices[0].message.content == "hello"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_damaged_or_unknown_encoding(wire, make_server, make_backend, caller, encoding):
    reply = wire.raw(b"\x1f\x8b not really", headers={"Content-Encoding": encoding})
    server = make_server(wire.Answer([reply]))
    error = caller.failure(make_backend(server.url))
    assert type(error) is RemoteProtocolError
    wire.assert_clean(error)


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>Welcome to our airport</body></html>",
        b"",
        b"null",
        b"{}",
        b'{"error": "no"}',
        b"[1, 2]",
        b"\xff\xfe\xfa",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": "x"}}]}',
        b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}',
        b'{"choices": [{"finish_reason": "stop"}]}',
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=range(13),
)
def test_a_success_of_the_wrong_shape(wire, make_server, make_backend, caller, body):
    server = make_server(wire.Answer([wire.raw(body)]))
    error = caller.failure(make_backend(server.url))
    assert type(error) is RemoteProtocolError
    assert error.status == 200
    wire.assert_clean(error)


def test_an_error_s_status_counts_even_if_its_body_never_ends(
    wire, make_server, make_backend, caller
):
    head = wire.head(429, {"Content-Length": "1000", "Retry-After": "3"})
    server = make_server(wire.Answer([head, b'{"err'], then="close"))
    error = caller.failure(make_backend(server.url))
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 3


def test_a_key_that_a_server_echoes_is_masked(wire, make_server, make_backend, caller):
    said = f"your key {wire.canary} is wrong"
    server = make_server(behaviour=lambda _: wire.answer({"error": said}, 401))
    backend = make_backend(server.url)
    error = caller.failure(backend)
    assert "your key ***" in error.message
    wire.assert_clean(error)
    assert wire.canary not in repr(backend)
    assert wire.canary not in repr(vars(backend))


def test_logs_at_their_loudest_hold_neither_key_nor_texts(
    wire, make_server, make_backend, caller, caplog
):
    caplog.set_level(0)
    text = "the patient's name is Jane Doe"
    good, bad = [[1.0, 0.0, 0.0, 0.0]], {"error": f"{wire.canary} {text}"}
    server = make_server(wire.answer(good), wire.answer(bad, 500))
    backend = make_backend(server.url)
    caller.call(backend, wire.embed_request(text), wire.deadline())
    caller.failure(backend, wire.embed_request(text))
    assert caplog.records
    assert wire.canary not in caplog.text
    assert "Jane" not in caplog.text


def test_a_prompt_that_a_server_echoes_is_masked(wire, make_server, make_backend, caller):
    secret = "the patient's name is Jane Doe"
    server = make_server(wire.answer({"error": f"cannot embed {secret!r}: {secret}"}, 422))
    request = wire.embed_request(secret)
    error = caller.failure(make_backend(server.url), request)
    assert "Jane" not in error.message
