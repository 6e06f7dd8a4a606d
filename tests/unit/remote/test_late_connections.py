"""A call that is still on its way to a connection when its client is closed sends nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trustme

from hybrid_infer.errors import EngineClosedError
from hybrid_infer.remote import channel_aio

Closing = Callable[[Any], Awaitable[None]]


async def awaited(backend: Any) -> None:
    await backend.aclose()


async def from_a_thread(backend: Any) -> None:
    await asyncio.to_thread(backend.close)


async def assert_ends(call: asyncio.Task[Any]) -> None:
    with pytest.raises(EngineClosedError):
        await asyncio.wait_for(call, 20)


@pytest.fixture
def slow_resolver(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Whether a name was asked for, and what its address waits for."""
    asked, gate = threading.Event(), threading.Event()

    def resolve(_host: str, port: int, *_arguments: Any, **_options: Any) -> list[Any]:
        asked.set()
        gate.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked, gate


@pytest.mark.parametrize("close", [awaited, from_a_thread])
def test_closing_during_the_look_up(wire, make_server, make_backend, slow_resolver, close):
    asked, gate = slow_resolver
    server = make_server(wire.answer(wire.completion()))
    backend = make_backend(f"http://late.localhost:{server.port}")

    async def call_and_close() -> None:
        call = asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
        assert await asyncio.to_thread(asked.wait, 20)
        await close(backend)
        gate.set()
        await assert_ends(call)

    asyncio.run(call_and_close())
    assert server.received == []
    assert server.num_connections == 0


def test_closing_during_the_look_up_of_a_thread_s_call(
    wire, make_server, make_backend, slow_resolver
):
    asked, gate = slow_resolver
    server = make_server(wire.answer(wire.completion()))
    backend = make_backend(f"http://late.localhost:{server.port}")
    caught: list[BaseException] = []

    def call() -> None:
        try:
            backend.call(wire.chat_request(), wire.deadline())
        except EngineClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert asked.wait(20)
    backend.close()
    gate.set()
    thread.join(20)
    assert len(caught) == 1
    assert server.received == []


@pytest.mark.parametrize("close", [awaited, from_a_thread])
def test_closing_between_the_connection_and_its_first_use(
    wire, make_server, make_backend, monkeypatch, close
):
    server = make_server(wire.answer(wire.completion()))
    backend = make_backend(server.url)
    connect = channel_aio.AsyncBoundedNetwork.connect_tcp

    async def connect_and_close(network: Any, *arguments: Any, **options: Any) -> Any:
        stream = await connect(network, *arguments, **options)
        await close(backend)
        return stream

    monkeypatch.setattr(channel_aio.AsyncBoundedNetwork, "connect_tcp", connect_and_close)

    async def call() -> None:
        request = backend.acall(wire.chat_request(), wire.deadline())
        await assert_ends(asyncio.ensure_future(request))

    asyncio.run(call())
    assert server.received == []


@pytest.mark.parametrize("close", [awaited, from_a_thread])
def test_closing_during_the_handshake(wire, make_backend, monkeypatch, tmp_path, close):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    greeted, gate = threading.Event(), threading.Event()
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(1, socket.MSG_PEEK)
        greeted.set()
        gate.wait(20)
        with context.wrap_socket(connection, server_side=True) as secured:
            try:
                received.append(secured.recv(65536))
            except OSError:  # the client is gone without a word
                received.append(b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        backend = make_backend(f"https://127.0.0.1:{listener.getsockname()[1]}")

        async def call_and_close() -> None:
            call = asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
            assert await asyncio.to_thread(greeted.wait, 20)
            await close(backend)
            gate.set()
            await assert_ends(call)

        asyncio.run(call_and_close())
        thread.join(20)
    assert received == [b""]


@pytest.mark.parametrize("close", [awaited, from_a_thread])
def test_closing_while_a_call_waits_for_a_connection(
    wire, make_server, make_backend, monkeypatch, close
):
    monkeypatch.setattr(channel_aio, "MAX_CONNECTIONS", 1)
    server = make_server(behaviour=lambda _: wire.Answer([], then="hang"))
    backend = make_backend(server.url)

    async def call_and_close() -> None:
        calls = [
            asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
            for _ in range(2)
        ]
        await asyncio.to_thread(server.wait_for_requests, 1)
        await close(backend)
        for call in calls:
            await assert_ends(call)

    asyncio.run(call_and_close())
    assert len(server.received) == 1
