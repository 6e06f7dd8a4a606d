"""`FakeRemote`: a real TCP server on loopback that behaves like the remote, or misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from hybrid_infer.testing.answers import Answers, EchoAnswers
from hybrid_infer.testing.messages import ReceivedRequest, Reply, Response, scripted
from hybrid_infer.testing.routes import healthy_response
from hybrid_infer.testing.scenario import Scenario
from hybrid_infer.testing.wire import MAX_HEAD_BYTES, read_request, response_bytes

HOST = "127.0.0.1"
CONTROL_SECONDS = 30.0
_ResultT = TypeVar("_ResultT")
Responder = Callable[[ReceivedRequest], Reply | None]


class FakeRemote:
    """A server that answers like Hugging Face's router, an OpenAI server or TEI, on real sockets.

    Without a script it is healthy. `enqueue`, `respond_with` or a `Scenario` make it fail: by
    status, by a cut at any byte, by silence, by a slow drip. `go_down` makes it refuse
    connections, `come_back` listens on the same port again.

    Args:
        answers: ``"tiny"`` (the tiny models' own answers), ``"echo"`` (instant, made up), or an
            object with the methods of `Answers`.
        api_key: the key to ask for; None asks for none.
        scenario: scripted replies to begin with.
        port: the port to listen on; 0 picks a free one.

    Attributes:
        ledger: every request received, oldest first.
    """

    def __init__(
        self,
        answers: str | Answers = "tiny",
        api_key: str | None = None,
        scenario: Scenario | None = None,
        port: int = 0,
    ) -> None:
        self._answers_wanted = answers
        self._answers: Answers | None = None
        self._api_key = api_key
        self._scenario = scenario
        self._script: list[Reply] = scenario.replies() if scenario else []
        self._responder: Responder | None = None
        self._arrived = threading.Condition()
        self._answers_lock = threading.Lock()
        self.ledger: list[ReceivedRequest] = []
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._workers: ThreadPoolExecutor | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._num_connections = 0

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{HOST}:{self.port}"

    # Life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; returns once connections are accepted."""
        loop = asyncio.new_event_loop()
        self._loop = loop
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="fake-remote-answers")
        self._thread = threading.Thread(target=loop.run_forever, name="fake-remote", daemon=True)
        self._thread.start()
        self._control(self._listen())
        return self

    def close(self) -> None:
        """Stop listening, drop every connection, end every thread."""
        if self._loop is None or self._thread is None:
            return
        self._control(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_SECONDS)
        self._loop.close()
        self._loop = None
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        if self._answers is not None and self._answers is not self._answers_wanted:
            self._answers.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Control ---------------------------------------------------------------------------------

    def enqueue(self, reply: Reply, times: int = 1) -> None:
        """Answer the next `times` matching requests with `reply`."""
        self._script.extend([reply] * times)

    def respond_with(self, responder: Responder | None) -> None:
        """Ask `responder` about every request; None from it means the script, then health."""
        self._responder = responder

    def reset(self) -> None:
        """Forget script, responder and ledger, and be up and healthy."""
        self._script.clear()
        self._responder = None
        with self._arrived:
            self.ledger.clear()
        if self._server is None:
            self.come_back()

    def go_down(self) -> None:
        """Drop every connection and refuse new ones."""
        self._control(self._hang_up())

    def come_back(self) -> None:
        """Listen on the same port again."""
        if self._server is None:
            self._control(self._listen())

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedRequest]:
        """Block until `count` requests have arrived; returns the ledger.

        Raises:
            TimeoutError: fewer arrived within `timeout` seconds.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.ledger) >= count, timeout):
                raise TimeoutError(f"{len(self.ledger)} of {count} requests within {timeout} s")
            return list(self.ledger)

    def _control(self, work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
        if self._loop is None:
            work.close()
            raise RuntimeError("the fake remote is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, HOST, self.port, limit=MAX_HEAD_BYTES, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Serving ---------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("connections are served in tasks")
        self._connections[task] = writer
        self._num_connections += 1
        try:
            await self._serve(reader, writer, self._num_connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went, or this server goes down: both end the connection
        finally:
            del self._connections[task]
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection_id: int
    ) -> None:
        while request := await read_request(reader, writer, connection_id):
            with self._arrived:
                self.ledger.append(request)
                self._arrived.notify_all()
            reply = self._scripted_reply(request)
            if reply is not None and reply.disconnect:
                return self._abort(writer) if reply.reset else None
            response = await self._response(request, reply)
            if not await self._send(reader, writer, response, reply or Reply()):
                return None
            if request.headers.get("connection", "").lower() == "close":
                return None
        return None

    def _scripted_reply(self, request: ReceivedRequest) -> Reply | None:
        if self._responder is not None:
            answer = self._responder(request)
            if answer is not None:
                return answer
        for index, reply in enumerate(self._script):
            if reply.matches(request):
                return self._script.pop(index)
        return self._scenario.forever(request) if self._scenario else None

    async def _response(self, request: ReceivedRequest, reply: Reply | None) -> Response:
        if reply is not None and not reply.is_healthy:
            return scripted(reply, Response())
        if self._api_key is not None:
            given = request.headers.get("authorization")
            if given != f"Bearer {self._api_key}":
                return Response.of_json({"error": "Invalid username or password."}, 401)
        loop = asyncio.get_running_loop()
        healthy = await loop.run_in_executor(self._workers, self._healthy, request)
        return healthy if reply is None else scripted(reply, healthy)

    def _healthy(self, request: ReceivedRequest) -> Response:
        with self._answers_lock:
            if self._answers is None:
                self._answers = _made(self._answers_wanted)
        return healthy_response(request, self._answers)

    async def _send(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        response: Response,
        reply: Reply,
    ) -> bool:
        """Put a response on the wire; returns whether the connection lives on."""
        is_whole = reply.cut_after_events is None or reply.clean_end
        wire = response_bytes(response, is_whole=is_whole)
        limits = [n for n in (reply.cut_after_bytes, reply.stall_after_bytes) if n is not None]
        await _write(writer, wire[: min(limits, default=len(wire))], reply)
        if reply.stall_after_bytes is not None:
            await reader.read()  # until the client goes, or this server does
            return False
        if reply.cut_after_bytes is None and is_whole:
            return True
        if reply.reset:
            self._abort(writer)
        return False

    @staticmethod
    def _abort(writer: asyncio.StreamWriter) -> None:
        """Close with a TCP reset: linger on, for zero seconds."""
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, wire: bytes, reply: Reply) -> None:
    if not reply.drip_bytes:
        writer.write(wire)
        await writer.drain()
        return
    for start in range(0, len(wire), reply.drip_bytes):
        writer.write(wire[start : start + reply.drip_bytes])
        await writer.drain()
        await asyncio.sleep(reply.drip_seconds)


def _made(wanted: str | Answers) -> Answers:
    if not isinstance(wanted, str):
        return wanted
    if wanted == "echo":
        return EchoAnswers()
    if wanted == "tiny":
        from hybrid_infer.testing.tiny_answers import TinyAnswers

        return TinyAnswers()
    raise ValueError(f"answers must be 'tiny', 'echo' or an object, not {wanted!r}")


def serve(
    scenario: Scenario | None = None,
    port: int = 0,
    answers: str | Answers = "tiny",
    api_key: str | None = None,
    on_ready: Callable[[FakeRemote], None] | None = None,
    on_request: Callable[[ReceivedRequest], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run a fake remote until Ctrl-C, or until `stop` is set.

    Args:
        scenario: scripted replies to begin with.
        port: the port to listen on; 0 picks a free one.
        answers: where healthy answers come from.
        api_key: the key to ask for.
        on_ready: told once connections are accepted.
        on_request: told about each request, on this thread.
        stop: ends the server when set.
    """
    seen = 0
    with FakeRemote(answers, api_key, scenario, port) as remote:
        if on_ready is not None:
            on_ready(remote)
        with contextlib.suppress(KeyboardInterrupt):
            while stop is None or not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    remote.wait_for(seen + 1, timeout=0.2)
                for request in remote.ledger[seen:]:
                    seen += 1
                    if on_request is not None:
                        on_request(request)
