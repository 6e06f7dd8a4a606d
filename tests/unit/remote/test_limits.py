"""Deadlines, timeouts and connections that never come to be: each ends in time, typed."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
)

SLACK_SECONDS = 3.0  # for a busy machine; a limit that is not kept takes ten times as long


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_slow_drip_does_not_outlive_the_deadline(wire, make_server, make_backend, caller, where):
    reply = wire.json(wire.completion())
    start = 0 if where == "head" else reply.index(b"\r\n\r\n") + 4
    pieces = [reply[:start], *[reply[at : at + 1] for at in range(start, len(reply))]]
    server = make_server(wire.Answer(pieces, pause_seconds=0.05))
    backend = make_backend(server.url)
    started = time.monotonic()
    error = caller.failure(backend, deadline=wire.deadline(0.25))
    assert time.monotonic() - started < 0.25 + SLACK_SECONDS
    assert type(error) is APITimeoutError
    wire.assert_clean(error)


def test_a_drip_is_no_progress_for_a_renewable_deadline(wire, make_server, make_backend, caller):
    reply = wire.json(wire.completion())
    server = make_server(wire.Answer([bytes([byte]) for byte in reply], pause_seconds=0.05))
    started = time.monotonic()
    deadline = wire.deadline(0.25, renewable=True)
    error = caller.failure(make_backend(server.url), deadline=deadline)
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
    error = caller.failure(make_backend(server.url), deadline=wire.deadline(0.2))
    assert time.monotonic() - started < 0.2 + SLACK_SECONDS
    assert isinstance(error, APITimeoutError)


def test_a_deadline_that_is_over_sends_nothing(wire, make_server, make_backend, caller):
    server = make_server()
    error = caller.failure(make_backend(server.url), deadline=wire.deadline(0.0))
    assert isinstance(error, APITimeoutError)
    assert server.received == []


def test_a_reader_that_does_not_read_ends_at_the_deadline(wire, make_backend, caller):
    """The request is larger than the sockets' buffers, and nobody takes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = make_backend(f"http://127.0.0.1:{listener.getsockname()[1]}")
        request = wire.embed_request("x" * 30_000_000)
        started = time.monotonic()
        error = caller.failure(backend, request, wire.deadline(0.5))
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
        error = caller.failure(backend)
        assert time.monotonic() - started < 0.2 + SLACK_SECONDS
        assert type(error) is APIConnectionError
        for filler in fillers:
            filler.close()


def test_a_deadline_shorter_than_the_connect_timeout_is_the_calls_own(
    wire, make_backend, caller, monkeypatch
):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_o: released.wait(20) and [])
    backend = make_backend(f"http://{caller.mode}.short.localhost")
    error = caller.failure(backend, deadline=wire.deadline(0.1))
    released.set()
    assert isinstance(error, APITimeoutError)


def test_a_refused_connection(wire, make_backend, caller):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = caller.failure(make_backend(f"http://127.0.0.1:{port}"))
    assert type(error) is APIConnectionError
    assert f"127.0.0.1:{port}" in error.message
    wire.assert_clean(error)


def test_an_unknown_name(wire, make_backend, caller, monkeypatch):
    def fail(*_arguments, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = caller.failure(make_backend("http://nowhere.localhost"))
    assert type(error) is APIConnectionError
    wire.assert_clean(error)


def test_a_resolver_that_hangs_ends_at_the_connect_timeout(wire, make_backend, caller, monkeypatch):
    released = threading.Event()

    def hang(*_arguments, **_options):
        released.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    settings = wire.settings(connect_timeout_seconds=0.2)
    backend = make_backend(f"http://{caller.mode}.slow.localhost", settings)
    started = time.monotonic()
    error = caller.failure(backend)
    elapsed = time.monotonic() - started
    released.set()
    assert elapsed < 0.2 + SLACK_SECONDS
    assert type(error) is APIConnectionError


def test_an_endless_error_body_is_left_unread(wire, make_server, make_backend, caller):
    head = wire.head(500, {"Content-Length": str(1 << 30)})
    server = make_server(wire.Answer([head, b"x" * 500_000], then="hang"))
    started = time.monotonic()
    error = caller.failure(make_backend(server.url))
    assert time.monotonic() - started < 1 + SLACK_SECONDS
    assert error.status == 500


def test_an_error_body_that_stalls_is_not_waited_for(wire, make_server, make_backend, caller):
    head = wire.head(500, {"Content-Length": "1000"})
    server = make_server(wire.Answer([head, b'{"error": "x'], then="hang"))
    started = time.monotonic()
    error = caller.failure(make_backend(server.url))
    assert time.monotonic() - started < 1 + SLACK_SECONDS
    assert error.status == 500
