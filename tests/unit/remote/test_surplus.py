"""Bytes behind the end of a reply are never taken for the answer of the next call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from typing import Any

import pytest
import trustme

from hybrid_infer.errors import HybridInferError


def contents(caller: Any, backend: Any, wire: Any, count: int) -> list[Any]:
    """What `count` calls, one after another, get: a text, or None after an error."""

    def text(reply: Any) -> str:
        return reply.choices[0].message.content

    def call() -> str | None:
        with contextlib.suppress(HybridInferError):
            return text(backend.call(wire.chat_request(), wire.deadline()))
        return None

    async def acall() -> str | None:
        with contextlib.suppress(HybridInferError):
            return text(await backend.acall(wire.chat_request(), wire.deadline()))
        return None

    async def all_of_them() -> list[str | None]:
        return [await acall() for _ in range(count)]

    if caller.mode == "sync":
        return [call() for _ in range(count)]
    return asyncio.run(all_of_them())


def whole(wire: Any) -> bytes:
    return wire.json(wire.completion("first"))


def chunked(wire: Any) -> bytes:
    first = whole(wire).partition(b"\r\n\r\n")[2]
    head = wire.head(200, {"Transfer-Encoding": "chunked"})
    return head + b"%x\r\n" % len(first) + first + b"\r\n0\r\n\r\n"


def without_a_body(wire: Any) -> bytes:
    return b"HTTP/1.1 204 No Content\r\n\r\n"


def empty(wire: Any) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def refusal(wire: Any) -> bytes:
    return wire.json({"error": {"message": "no"}}, 400)


FIRST = {
    whole: "first",
    chunked: "first",
    without_a_body: None,
    empty: None,
    refusal: None,
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_second_reply_in_the_same_packet_is_nobody_s_answer(
    wire, make_server, make_backend, caller, first, share
):
    stale = wire.json(wire.completion("stale"))
    surplus = stale[: int(len(stale) * share)]
    server = make_server(
        wire.Answer([first(wire) + surplus]),
        wire.answer(wire.completion("second")),
        wire.answer(wire.completion("third")),
    )
    got = contents(caller, make_backend(server.url), wire, 3)
    assert got == [FIRST[first], "second", "third"]
    assert [request.connection for request in server.received] == [1, 2, 2]


@pytest.mark.parametrize("first", FIRST)
def test_a_connection_without_surplus_is_kept(wire, make_server, make_backend, caller, first):
    server = make_server(wire.Answer([first(wire)]), wire.answer(wire.completion("second")))
    assert contents(caller, make_backend(server.url), wire, 2) == [FIRST[first], "second"]
    assert [request.connection for request in server.received] == [1, 1]


def test_a_stream_with_bytes_behind_its_end_leaves_no_answer_behind(
    wire, make_server, make_backend, caller
):
    events = b"".join(wire.events(wire.chunk("a"), wire.chunk(None, "stop"), "data: [DONE]\n\n"))
    stale = wire.json(wire.completion("stale"))
    server = make_server(
        wire.Answer([events + stale]), wire.answer(wire.completion("second")), wire.Answer([])
    )
    backend = make_backend(server.url)
    request = wire.chat_request()

    async def both() -> Any:
        stream = await backend.astream(request, wire.deadline())
        _ = [part async for part in stream]
        return await backend.acall(request, wire.deadline())

    if caller.mode == "sync":
        list(backend.stream(request, wire.deadline()))
        reply = backend.call(request, wire.deadline())
    else:
        reply = asyncio.run(both())
    assert reply.choices[0].message.content == "second"
    assert [received.connection for received in server.received] == [1, 2]


def test_a_segment_that_ends_a_read_with_the_message_is_not_trusted(
    wire, make_server, make_backend, caller
):
    """What came behind 64 KiB in one segment waits in the event loop's queue, unseen."""
    stale = wire.json(wire.completion("stale"))
    size = len(wire.json(wire.completion("x" * 50_000)))
    first = wire.json(wire.completion("x" * (50_000 + 65536 - size)))
    assert len(first) == 65536
    server = make_server(
        wire.Answer([first + stale]),
        wire.answer(wire.completion("second")),
        wire.answer(wire.completion("third")),
    )
    got = contents(caller, make_backend(server.url), wire, 3)
    assert got[1:] == ["second", "third"]


class RecordServer:
    """A TLS server that sends the records of each answer in one segment."""

    def __init__(self, certificate: trustme.LeafCert, answers: list[list[bytes]]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.answers = answers
        self.num_connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.num_connections += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(20)
                self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_side=True)
        self.pump(connection, incoming, outgoing, tls.do_handshake)
        while self.answers:
            request = b""
            while not request.endswith(b"}"):  # its body is JSON
                request += self.pump(connection, incoming, outgoing, tls.read)
            for record in self.answers.pop(0):
                tls.write(record)
            connection.sendall(outgoing.read())

    @staticmethod
    def pump(connection: socket.socket, incoming: Any, outgoing: Any, operation: Any) -> Any:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError from None
                incoming.write(data)
            else:
                connection.sendall(outgoing.read())
                return result


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(("has_surplus", "num_connections"), [(True, 2), (False, 1)])
def test_a_record_behind_the_reply_s_is_surplus(
    wire, make_backend, caller, authority, monkeypatch, tmp_path, has_surplus, num_connections
):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    first = [whole(wire), wire.json(wire.completion("stale"))][: 2 if has_surplus else 1]
    answers = [first, [wire.json(wire.completion("second"))]]
    server = RecordServer(authority.issue_cert("localhost"), answers)
    try:
        got = contents(caller, make_backend(server.url), wire, 2)
    finally:
        server.listener.close()
    assert got == ["first", "second"]
    assert server.num_connections == num_connections
