"""Connections: TLS, proxies, forks, event loops, addresses."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
    EngineClosedError,
)
from hybrid_infer.remote import channel, proxies
from hybrid_infer.remote.lookups import interleaved, look_up
from hybrid_infer.remote.proxies import environment_proxy
from hybrid_infer.routing.verdicts import verdict_for


def test_event_loops_come_and_go(wire, make_server, make_backend):
    server = make_server(*[wire.answer(wire.completion()) for _ in range(6)])
    backend = make_backend(server.url)

    async def twice():
        for _ in range(2):
            await backend.acall(wire.chat_request(), wire.deadline())

    for _ in range(3):
        asyncio.run(twice())
    gc.collect()
    assert server.num_connections == 3  # one a loop, reused within it
    assert len(backend._async_channel._loops) <= 1


def test_a_try_that_is_given_up_after_its_end_leaves_the_next_one_its_connection(
    wire, make_server, make_backend
):
    is_second, arrived, answered = threading.Event(), threading.Event(), threading.Event()

    def behaviour(_):
        if is_second.is_set():
            arrived.set()
            assert answered.wait(20)
        return wire.answer(wire.completion())

    server = make_server(behaviour=behaviour)
    backend = make_backend(server.url)
    first = wire.deadline().attempt()
    backend.call(wire.chat_request(), first)
    is_second.set()
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(backend.call, wire.chat_request(), wire.deadline())
        assert arrived.wait(20)
        first.cancel()
        answered.set()
        assert second.result(20).choices[0].message.content == "hello"
    assert server.num_connections == 1
    assert len(server.received) == 2


def test_a_call_that_finds_every_connection_in_use_blames_nobody(
    wire, make_server, make_backend, monkeypatch
):
    monkeypatch.setattr(channel, "MAX_CONNECTIONS", 1)
    server = make_server(wire.Answer([], then="hang"))
    backend = make_backend(server.url)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(backend.call, wire.chat_request(), wire.deadline())
        server.wait_for_requests(1)
        with pytest.raises(APITimeoutError, match="was free in time") as caught:
            backend.call(wire.chat_request(), wire.deadline(0.2))
        verdict = verdict_for(caught.value)
        assert verdict.counts_against is verdict.gate is None
        backend.close()
        with pytest.raises(EngineClosedError):
            first.result(20)
    assert len(server.received) == 1


def test_two_loops_at_once(wire, make_server, make_backend):
    server = make_server(behaviour=lambda _: wire.answer(wire.completion()))
    backend = make_backend(server.url)
    contents: list[str] = []

    async def several():
        replies = await asyncio.gather(
            *[backend.acall(wire.chat_request(), wire.deadline()) for _ in range(10)]
        )
        contents.extend(reply.choices[0].message.content for reply in replies)

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert contents == ["hello"] * 40


def test_closing_from_outside_reaches_a_running_loop(wire, make_server, make_backend):
    server = make_server(wire.Answer([], then="hang"))
    backend = make_backend(server.url)

    async def call():
        task = asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
        await asyncio.to_thread(server.wait_for_requests, 1)
        await asyncio.to_thread(backend.close)
        with pytest.raises(EngineClosedError):
            await asyncio.wait_for(task, 10)

    asyncio.run(call())


def test_aclose_ends_calls_in_flight(wire, make_server, make_backend):
    server = make_server(wire.Answer([], then="hang"))
    backend = make_backend(server.url)

    async def call():
        task = asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
        await asyncio.to_thread(server.wait_for_requests, 1)
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(EngineClosedError):
            await asyncio.wait_for(task, 10)

    asyncio.run(call())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own_connections(wire, make_server, make_backend):
    server = make_server(*[wire.answer(wire.completion()) for _ in range(3)])
    backend = make_backend(server.url)
    backend.call(wire.chat_request(), wire.deadline())
    backend._channel._lock.acquire()  # as another thread of the parent might hold it
    child = os.fork()
    if child == 0:
        status = 1
        try:
            backend.call(wire.chat_request(), wire.deadline(10))
            status = 0
        finally:
            os._exit(status)
    backend._channel._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backend.call(wire.chat_request(), wire.deadline())
    assert [request.connection for request in server.received] == [1, 2, 1]


class TlsServer:
    """Answers every connection with one reply, over TLS."""

    def __init__(self, certificate: trustme.LeafCert, reply: bytes) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.reply = reply
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(self.reply)
                    secured.recv(65536)
            except OSError:
                connection.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(("name", "works"), [("localhost", True), ("example.org", False)])
def test_certificates_are_verified(
    wire, make_backend, caller, authority, monkeypatch, tmp_path, name, works
):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = TlsServer(authority.issue_cert(name), wire.json(wire.completion()))
    backend = make_backend(server.url)
    try:
        if works:
            reply = caller.call(backend, wire.chat_request(), wire.deadline())
            assert reply.choices[0].message.content == "hello"
        else:
            with pytest.raises(APIConnectionError, match=r"(?i)certificate|hostname"):
                caller.call(backend, wire.chat_request(), wire.deadline())
    finally:
        backend.close()
        server.listener.close()


def test_an_unknown_authority_is_refused(wire, make_backend, caller, authority):
    server = TlsServer(authority.issue_cert("localhost"), wire.json(wire.completion()))
    with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
        caller.call(make_backend(server.url), wire.chat_request(), wire.deadline())
    server.listener.close()


def test_plain_text_where_tls_was_expected(wire, make_backend, caller):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_in_plain_text() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer_in_plain_text)
        thread.start()
        backend = make_backend(f"https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(APIConnectionError):
            caller.call(backend, wire.chat_request(), wire.deadline(5))
        thread.join(10)


def test_a_handshake_that_stalls_ends_in_time_and_leaves_no_socket(wire, make_backend, caller):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = wire.settings(connect_timeout_seconds=0.2)
        backend = make_backend(f"https://127.0.0.1:{listener.getsockname()[1]}", settings)
        assert type(caller.failure(backend)) is APIConnectionError
        listener.settimeout(10)
        connection, _ = listener.accept()
        connection.settimeout(10)
        with connection:
            while connection.recv(65536):  # the greeting, then the end
                pass


def test_loopback_never_goes_through_a_proxy(wire, make_server, make_backend, caller, monkeypatch):
    proxy = make_server()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    server = make_server(wire.answer(wire.completion()))
    caller.call(make_backend(server.url), wire.chat_request(), wire.deadline())
    assert len(server.received) == 1
    assert proxy.num_connections == 0


def test_other_hosts_go_through_the_environment_s_proxy(
    wire, make_server, make_backend, caller, monkeypatch
):
    proxy = make_server(wire.answer(wire.completion()))
    monkeypatch.setenv("http_proxy", proxy.url)
    caller.call(make_backend("http://remote.invalid/x"), wire.chat_request(), wire.deadline())
    assert proxy.received[0].path == "http://remote.invalid/x/v1/chat/completions"


@pytest.mark.parametrize(
    ("no_proxy", "host", "goes"),
    [
        ("", "10.1.2.3", True),
        ("10.0.0.0/8", "10.1.2.3", False),
        ("rubbish/8, 10.0.0.0/8", "10.1.2.3", False),
        ("192.168.0.0/16", "10.1.2.3", True),
        (".example.com", "api.example.com", False),
        ("*", "api.example.com", False),
    ],
)
def test_no_proxy(monkeypatch, no_proxy, host, goes):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (environment_proxy(f"http://{host}") is not None) == goes


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_that_nobody_here_can_speak_to_says_what_is_missing(monkeypatch, scheme):
    monkeypatch.setenv("all_proxy", f"{scheme}://user:password@proxy.example:1080")
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    with pytest.raises(APIConnectionError, match=r"httpx2\[socks\]") as caught:
        environment_proxy("http://remote.example")
    assert "password" not in str(caught.value)
    monkeypatch.setattr(proxies, "find_spec", lambda _: object())
    assert environment_proxy("http://remote.example").url.scheme == scheme.encode()


def test_an_unusable_proxy_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "gopher://user:password@proxy")
    with pytest.raises(APIConnectionError, match="not usable") as caught:
        environment_proxy("http://example.com")
    assert "password" not in str(caught.value)


def test_families_take_turns():
    found = [(6, "a"), (6, "b"), (6, "b"), (6, "c"), (4, "x")]
    assert interleaved(found) == ["a", "x", "b"]
    assert interleaved([]) == []


def test_literal_addresses_need_no_look_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert look_up("127.0.0.1", 80, 1.0) == ["127.0.0.1"]
    assert look_up("::1", 80, 1.0) == ["::1"]


def test_a_dead_address_does_not_hide_a_living_one(
    wire, make_server, make_backend, caller, monkeypatch
):
    server = make_server(wire.answer(wire.completion()))
    answers = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
    ]
    real = socket.getaddrinfo

    def resolve(host, *arguments, **options):
        if host == "two.localhost":
            return answers
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    backend = make_backend(f"http://two.localhost:{server.port}")
    caller.call(backend, wire.chat_request(), wire.deadline())
    assert len(server.received) == 1


def test_a_pending_look_up_is_shared(monkeypatch):
    released = threading.Event()
    asked: list[str] = []

    def resolve(host, *_arguments, **_options):
        asked.append(host)
        released.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            look_up("shared.localhost", 80, 0.01)
    released.set()
    assert look_up("shared.localhost", 80, 10) == ["127.0.0.1"]
    assert len(asked) <= 2
