"""Faults on the wire, byte by byte: each becomes one typed error, in time, without the key."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
import traceback

import pytest

from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
    HybridInferError,
    RateLimitError,
    RemoteProtocolError,
)

SLACK_SECONDS = 1.0  # for a busy machine; a limit that is not kept takes ten times as long


def failure_of(wire, caller, backend, request=None, deadline=None):
    request = request or wire.chat_request()
    with pytest.raises(HybridInferError) as caught:
        caller.call(backend, request, deadline or wire.deadline())
    return caught.value


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in found:
            found.append(one)
            todo += [one.__cause__, one.__context__]
    return found


def assert_clean(error: BaseException, canary: str) -> None:
    """No foreign exception is reachable, and the key is in no text of the error."""
    for one in chain(error):
        assert isinstance(one, HybridInferError), repr(one)
        assert canary not in repr(one)
        assert canary not in repr(vars(one))
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert canary not in text


def test_a_reply_cut_at_any_byte_is_a_protocol_error(wire, make_server, make_backend, caller):
    reply = wire.json(wire.completion())
    head_end = reply.index(b"\r\n\r\n")
    cuts = range(len(reply))
    server = make_server(*[wire.Answer([reply[:cut]], then="close") for cut in cuts])
    backend = make_backend(server.url)
    for cut in cuts:
        error = failure_of(wire, caller, backend)
        assert type(error) is RemoteProtocolError, f"cut at {cut} of {len(reply)}"
        assert error.status is None, f"cut at {cut}, head ends at {head_end}"
        assert_clean(error, wire.canary)
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
    error = failure_of(wire, caller, make_backend(server.url))
    assert type(error) is RemoteProtocolError
    assert_clean(error, wire.canary)


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
    error = failure_of(wire, caller, make_backend(server.url))
    assert type(error) is RemoteProtocolError
    assert_clean(error, wire.canary)


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_slow_drip_does_not_outlive_the_deadline(wire, make_server, make_backend, caller, where):
    reply = wire.json(wire.completion())
    start = 0 if where == "head" else reply.index(b"\r\n\r\n") + 4
    pieces = [reply[:start], *[reply[at : at + 1] for at in range(start, len(reply))]]
    server = make_server(wire.Answer(pieces, pause_seconds=0.05))
    backend = make_backend(server.url)
    started = time.monotonic()
    error = failure_of(wire, caller, backend, deadline=wire.deadline(0.25))
    assert time.monotonic() - started < 0.25 + SLACK_SECONDS
    assert type(error) is APITimeoutError
    assert_clean(error, wire.canary)


def test_a_drip_is_no_progress_for_a_renewable_deadline(wire, make_server, make_backend, caller):
    reply = wire.json(wire.completion())
    server = make_server(wire.Answer([bytes([byte]) for byte in reply], pause_seconds=0.05))
    started = time.monotonic()
    deadline = wire.deadline(0.25, renewable=True)
    error = failure_of(wire, caller, make_backend(server.url), deadline=deadline)
    assert time.monotonic() - started < 0.25 + SLACK_SECONDS
    assert isinstance(error, APITimeoutError)


def test_a_body_that_arrives_renews_the_deadline(wire, make_server, make_backend, caller):
    now = [0.0]
    server = make_server()

    def behaviour(request):
        now[0] += 8.0
        return wire.answer([[1.0, 0.0, 0.0, 0.0]])

    server.behaviour = behaviour
    backend = make_backend(server.url, wire.settings(batch=1, in_flight=1))
    deadline = wire.deadline(10.0, renewable=True, clock=lambda: now[0])
    reply = caller.call(backend, wire.embed_request("1", "2", "3"), deadline)
    assert len(reply.vectors) == 3
    assert now[0] == 24.0


def test_silence_ends_at_the_deadline(wire, make_server, make_backend, caller):
    server = make_server(wire.Answer([], then="hang"))
    started = time.monotonic()
    error = failure_of(wire, caller, make_backend(server.url), deadline=wire.deadline(0.2))
    assert time.monotonic() - started < 0.2 + SLACK_SECONDS
    assert isinstance(error, APITimeoutError)


def test_a_deadline_that_is_over_sends_nothing(wire, make_server, make_backend, caller):
    server = make_server()
    error = failure_of(wire, caller, make_backend(server.url), deadline=wire.deadline(0.0))
    assert isinstance(error, APITimeoutError)
    assert server.received == []


def test_a_reader_that_does_not_read_ends_at_the_deadline(wire, make_backend, caller):
    """The request is larger than the sockets' buffers, and nobody takes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = make_backend(f"http://127.0.0.1:{listener.getsockname()[1]}")
        request = wire.embed_request("x" * 30_000_000)
        started = time.monotonic()
        error = failure_of(wire, caller, backend, request, wire.deadline(0.5))
        assert time.monotonic() - started < 0.5 + SLACK_SECONDS
        assert isinstance(error, APITimeoutError)


def test_a_connection_that_is_never_accepted_ends_at_the_connect_timeout(
    wire, make_backend, caller
):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        settings = wire.settings(connect_timeout_seconds=0.2)
        backend = make_backend(f"http://127.0.0.1:{address[1]}", settings)
        started = time.monotonic()
        error = failure_of(wire, caller, backend)
        assert time.monotonic() - started < 0.2 + SLACK_SECONDS
        assert isinstance(error, APITimeoutError)
        for filler in fillers:
            filler.close()


def test_a_refused_connection(wire, make_backend, caller):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failure_of(wire, caller, make_backend(f"http://127.0.0.1:{port}"))
    assert type(error) is APIConnectionError
    assert f"127.0.0.1:{port}" in error.message
    assert_clean(error, wire.canary)


def test_an_unknown_name(wire, make_backend, caller, monkeypatch):
    def fail(*_arguments, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = failure_of(wire, caller, make_backend("http://nowhere.localhost"))
    assert type(error) is APIConnectionError
    assert_clean(error, wire.canary)


def test_a_resolver_that_hangs_ends_at_the_connect_timeout(wire, make_backend, caller, monkeypatch):
    released = threading.Event()

    def hang(*_arguments, **_options):
        released.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    settings = wire.settings(connect_timeout_seconds=0.2)
    backend = make_backend(f"http://{caller.mode}.slow.localhost", settings)
    started = time.monotonic()
    error = failure_of(wire, caller, backend)
    elapsed = time.monotonic() - started
    released.set()
    assert elapsed < 0.2 + SLACK_SECONDS
    assert isinstance(error, APITimeoutError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(wire, make_server, make_backend, caller, status):
    second = make_server()
    first = make_server(wire.answer({}, status, Location=second.url + "/v1/chat/completions"))
    error = failure_of(wire, caller, make_backend(first.url))
    assert type(error) is RemoteProtocolError
    assert error.status == status
    assert second.received == []
    assert second.num_connections == 0


def test_a_body_larger_than_allowed(wire, make_server, make_backend, caller):
    server = make_server(wire.Answer([wire.raw(b" " * 100_000)]))
    backend = make_backend(server.url, wire.settings(body_bytes=50_000))
    error = failure_of(wire, caller, backend)
    assert type(error) is RemoteProtocolError
    assert "50000 bytes" in error.message


def test_a_gzip_bomb_stops_at_the_limit(wire, make_server, make_backend, caller):
    bomb = wire.gzipped(b"[" + b"0," * 40_000_000 + b"0]")
    assert len(bomb) < 1_000_000
    server = make_server(wire.Answer([bomb]))
    error = failure_of(wire, caller, make_backend(server.url, wire.settings(body_bytes=1 << 20)))
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
    error = failure_of(wire, caller, make_backend(server.url))
    assert type(error) is RemoteProtocolError
    assert_clean(error, wire.canary)


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
    error = failure_of(wire, caller, make_backend(server.url))
    assert type(error) is RemoteProtocolError
    assert error.status == 200
    assert_clean(error, wire.canary)


def test_an_error_s_status_counts_even_if_its_body_never_ends(
    wire, make_server, make_backend, caller
):
    head = wire.head(429, {"Content-Length": "1000", "Retry-After": "3"})
    server = make_server(wire.Answer([head, b'{"err'], then="close"))
    error = failure_of(wire, caller, make_backend(server.url))
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 3


def test_an_endless_error_body_is_left_unread(wire, make_server, make_backend, caller):
    head = wire.head(500, {"Content-Length": str(1 << 30)})
    server = make_server(wire.Answer([head, b"x" * 500_000], then="hang"))
    error = failure_of(wire, caller, make_backend(server.url))
    assert error.status == 500


def test_a_key_that_a_server_echoes_is_masked(wire, make_server, make_backend, caller):
    said = f"your key {wire.canary} is wrong"
    server = make_server(behaviour=lambda _: wire.answer({"error": said}, 401))
    backend = make_backend(server.url)
    error = failure_of(wire, caller, backend)
    assert "your key ***" in error.message
    assert_clean(error, wire.canary)
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
    failure_of(wire, caller, backend, wire.embed_request(text))
    assert caplog.records
    assert wire.canary not in caplog.text
    assert "Jane" not in caplog.text


def test_a_prompt_that_a_server_echoes_is_masked(wire, make_server, make_backend, caller):
    secret = "the patient's name is Jane Doe"
    server = make_server(wire.answer({"error": f"cannot embed {secret!r}: {secret}"}, 422))
    request = wire.embed_request(secret)
    error = failure_of(wire, caller, make_backend(server.url), request)
    assert "Jane" not in error.message


def test_a_stale_connection_is_replaced_without_a_word(wire, make_server, make_backend, caller):
    """The server closes after it has read the second request on the kept connection."""
    first, last = wire.answer(wire.completion("1")), wire.answer(wire.completion("2"))
    server = make_server(first, wire.Answer([], then="close"), last)
    backend = make_backend(server.url)

    if caller.mode == "sync":
        replies = [backend.call(wire.chat_request(), wire.deadline()) for _ in range(2)]
    else:

        async def both():
            return [await backend.acall(wire.chat_request(), wire.deadline()) for _ in range(2)]

        replies = asyncio.run(both())
    assert [reply.choices[0].message.content for reply in replies] == ["1", "2"]
    assert [request.connection for request in server.received] == [1, 1, 2]


def test_a_stale_connection_is_replaced_only_once(wire, make_server, make_backend):
    server = make_server(
        wire.answer(wire.completion()),
        wire.Answer([], then="close"),
        wire.Answer([], then="close"),
    )
    backend = make_backend(server.url)
    backend.call(wire.chat_request(), wire.deadline())
    with pytest.raises(RemoteProtocolError):
        backend.call(wire.chat_request(), wire.deadline())
    assert len(server.received) == 3


def test_a_kept_connection_that_broke_mid_reply_is_not_retried(wire, make_server, make_backend):
    whole = wire.json(wire.completion())
    server = make_server(wire.Answer([whole]), wire.Answer([whole[:40]], then="close"))
    backend = make_backend(server.url)
    backend.call(wire.chat_request(), wire.deadline())
    with pytest.raises(RemoteProtocolError):
        backend.call(wire.chat_request(), wire.deadline())
    assert len(server.received) == 2


def test_failures_leave_no_connection_behind(wire, make_server, make_backend, caller):
    server = make_server(
        *[wire.Answer([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"], then="close")] * 20
    )
    backend = make_backend(server.url)
    for _ in range(20):
        failure_of(wire, caller, backend)
    gc.collect()
    if caller.mode == "sync":
        assert backend._channel._pools.kept.connections == []
        assert backend._channel._pools.kept._requests == []


def test_cancelling_closes_the_connection(wire, make_server, make_backend):
    server = make_server(wire.Answer([], then="hang"), wire.answer(wire.completion()))
    backend = make_backend(server.url)

    async def cancel_one_and_make_another():
        task = asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
        await asyncio.to_thread(server.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reply = await backend.acall(wire.chat_request(), wire.deadline())
        pools = backend._async_channel._loops[asyncio.get_running_loop()]
        return reply, len(pools.kept.connections), len(pools.kept._requests)

    reply, num_connections, num_requests = asyncio.run(cancel_one_and_make_another())
    assert reply.choices[0].message.content == "hello"
    assert (num_connections, num_requests) == (1, 0)
    assert server.num_connections == 2


def test_cancelling_many_chunks_cancels_all(wire, make_server, make_backend):
    server = make_server(behaviour=lambda _: wire.Answer([], then="hang"))
    backend = make_backend(server.url, wire.settings(batch=1, in_flight=4))

    async def cancel():
        request = wire.embed_request(*"123456789")
        task = asyncio.ensure_future(backend.acall(request, wire.deadline()))
        await asyncio.to_thread(server.wait_for_requests, 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    assert asyncio.run(cancel()) == 1
    assert len(server.received) == 4
