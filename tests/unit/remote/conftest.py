"""A raw, scripted TCP server: every byte of every answer, and when it is sent, is the test's."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.errors import HybridInferError
from hybrid_infer.remote.backend import RemoteBackend
from hybrid_infer.remote.keys import Secret
from hybrid_infer.settings import EmbeddingSettings, MemorySettings, RoutingSettings, Settings

CANARY = "hf_canaryCANARYcanaryCANARYcanary"
CHAT_SPEC = ModelSpec("chat", "small", "org/chat-model", None)
EMBED_SPEC = ModelSpec("embeddings", "small", "org/embed-model", None, dim=4)


@dataclass
class Received:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What the server does with one request.

    Attributes:
        pieces: sent one after another.
        pause_seconds: between two pieces.
        gate: waited for before the first piece.
        then: "keep" the connection, "close" it, "reset" it, or "hang" until the test ends.
    """

    pieces: list[bytes]
    pause_seconds: float = 0.0
    gate: threading.Event | None = None
    then: str = "keep"


Behaviour = Callable[[Received], Answer]


@dataclass
class ScriptedServer:
    """Listens on loopback; answers by a script, or by a function of the request."""

    script: list[Answer] = field(default_factory=list)
    behaviour: Behaviour | None = None
    received: list[Received] = field(default_factory=list)
    num_connections: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.arrived = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._in_flight = 0
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.num_connections += 1
            self._connections.append(connection)
            self._start(self._serve, connection, self.num_connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            while (request := self._read(connection, number)) is not None:
                answer = self._take(request)
                self._send(connection, answer)
                with self.arrived:
                    self._in_flight -= 1
                if answer.then == "hang":
                    self.stopped.wait(30)
                if answer.then == "reset":
                    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                if answer.then != "keep":
                    return
        except OSError:
            return
        finally:
            connection.close()

    def _take(self, request: Received) -> Answer:
        with self.arrived:
            self.received.append(request)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self.arrived.notify_all()
            if self.behaviour is None:
                return self.script.pop(0)
        return self.behaviour(request)

    def _send(self, connection: socket.socket, answer: Answer) -> None:
        if answer.gate is not None:
            answer.gate.wait(30)
        for piece in answer.pieces:
            if piece:
                connection.sendall(piece)
            if answer.pause_seconds and self.stopped.wait(answer.pause_seconds):
                return

    def _read(self, connection: socket.socket, number: int) -> Received | None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(map(_field, lines))
        while len(body) < int(headers.get("content-length", "0")):
            body += connection.recv(65536)
        return Received(first.split(" ")[1], headers, body, number)

    def wait_for_requests(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.received) >= count, timeout=20)

    def stop(self) -> None:
        self.stopped.set()
        self.listener.close()
        for connection in self._connections:
            connection.close()


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in found:
            found.append(one)
            todo += [one.__cause__, one.__context__]
    return found


class Wire:
    """Builds replies byte by byte, and the objects under test."""

    Answer = Answer
    canary = CANARY
    chat_spec = CHAT_SPEC
    embed_spec = EMBED_SPEC

    @staticmethod
    def head(status: int = 200, headers: dict[str, str] | None = None) -> bytes:
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @classmethod
    def raw(cls, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
        given = {"Content-Type": "application/json", **(headers or {})}
        return cls.head(status, {**given, "Content-Length": str(len(body))}) + body

    @classmethod
    def json(cls, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
        return cls.raw(json.dumps(document).encode(), status, headers)

    @classmethod
    def answer(cls, document: Any, status: int = 200, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer([cls.json(document, status, named)])

    @classmethod
    def gzipped(cls, body: bytes) -> bytes:
        return cls.raw(gzip.compress(body), headers={"Content-Encoding": "gzip"})

    @classmethod
    def events(cls, *events: str, chunked: bool = True) -> list[bytes]:
        """The pieces of a stream: its head, then one chunk for each event, then the last one."""
        headers = {"Content-Type": "text/event-stream"}
        if not chunked:
            return [cls.head(200, headers), *(event.encode() for event in events)]
        pieces = [cls.head(200, {**headers, "Transfer-Encoding": "chunked"})]
        for event in events:
            data = event.encode()
            pieces.append(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        return [*pieces, b"0\r\n\r\n"]

    @staticmethod
    def completion(content: str = "hello", **changes: Any) -> dict[str, Any]:
        document = {
            "id": "chatcmpl-1",
            "created": 1700000000,
            "model": "org/chat-model",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        }
        return {**document, **changes}

    @staticmethod
    def chunk(content: str | None = None, finish_reason: str | None = None, index: int = 0) -> str:
        delta = {} if content is None else {"content": content}
        document = {
            "id": "chatcmpl-2",
            "created": 1700000001,
            "model": "org/chat-model:some-provider",
            "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}],
        }
        return f"data: {json.dumps(document)}\n\n"

    @staticmethod
    def chat_request(**changes: Any) -> ChatRequest:
        messages = ({"role": "user", "content": "What is low latency?"},)
        return ChatRequest(**{"spec": CHAT_SPEC, "messages": messages, "max_tokens": 16, **changes})

    @staticmethod
    def embed_request(*texts: str, **changes: Any) -> EmbedRequest:
        return EmbedRequest(**{"spec": EMBED_SPEC, "texts": texts, **changes})

    @staticmethod
    def settings(
        *, batch: int = 32, in_flight: int = 8, body_bytes: int = 1 << 20, **routing: float
    ) -> Settings:
        return Settings(
            routing=RoutingSettings(**routing),
            embedding=EmbeddingSettings(remote_batch_size=batch, remote_concurrency=in_flight),
            memory=MemorySettings(max_body_bytes=body_bytes),
        )

    @classmethod
    def assert_clean(cls, error: BaseException) -> None:
        """No foreign exception is reachable, and the key is in no text of the error."""
        for one in chain(error):
            assert isinstance(one, HybridInferError), repr(one)
            assert CANARY not in repr(one)
            assert CANARY not in repr(vars(one))
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert CANARY not in "".join(report.format())

    @staticmethod
    def deadline(seconds: float = 20.0, **options: Any) -> Deadline:
        return Deadline(seconds, **options)


class Caller:
    """One way of calling a backend; every script is run through both."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def call(self, backend: RemoteBackend, request: Any, deadline: Deadline) -> Any:
        if self.mode == "sync":
            return backend.call(request, deadline)
        return asyncio.run(backend.acall(request, deadline))

    def failure(
        self, backend: RemoteBackend, request: Any = None, deadline: Deadline | None = None
    ) -> HybridInferError:
        request = request or Wire.chat_request()
        with pytest.raises(HybridInferError) as caught:
            self.call(backend, request, deadline or Wire.deadline())
        return caught.value

    def parts(self, backend: RemoteBackend, request: Any, deadline: Deadline) -> tuple[list, Any]:
        """The parts of a stream, and its error if it had one."""
        if self.mode == "async":
            return asyncio.run(self._aparts(backend, request, deadline))
        parts: list = []
        try:
            stream = backend.stream(request, deadline)
            for part in stream:
                parts.append(part)  # noqa: PERF402 - what came before an error counts
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return parts, error
        stream.close()
        return parts, stream

    async def _aparts(self, backend: RemoteBackend, request: Any, deadline: Deadline) -> Any:
        parts: list = []
        try:
            stream = await backend.astream(request, deadline)
            async for part in stream:
                parts.append(part)  # noqa: PERF401 - what came before an error counts
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return parts, error
        await stream.aclose()
        return parts, stream


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def make_server() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def make(*script: Answer, behaviour: Behaviour | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(list(script), behaviour))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def make_backend() -> Iterator[Callable[..., RemoteBackend]]:
    backends: list[RemoteBackend] = []

    def make(url: str, settings: Settings | None = None, **spec: Any) -> RemoteBackend:
        remote = RemoteSpec("huggingface", spec.pop("dialect", "hf-router"), url, **spec)
        backends.append(
            RemoteBackend(remote, key=Secret(CANARY), settings=settings or Wire.settings())
        )
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()
