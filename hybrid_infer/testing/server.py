"""`FakeRemote`: a real TCP server on loopback that behaves like the remote, or misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from hybrid_infer.errors import EngineClosedError
from hybrid_infer.testing.answers import Answers, made_answers
from hybrid_infer.testing.ledger import Ledger
from hybrid_infer.testing.messages import ReceivedRequest
from hybrid_infer.testing.routes import Healthy
from hybrid_infer.testing.scenario import ANY_REQUEST, Match, Reply, Scenario, Step
from hybrid_infer.testing.script import Responder, Script
from hybrid_infer.testing.service import HOST, Service, reserved
from hybrid_infer.testing.workers import Workers

CONTROL_SECONDS = 30.0
WORKER_PATIENCE_SECONDS = 10.0
NUM_WORKERS = 4
DEFAULT_EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_POLL_SECONDS = 0.2  # how late `stop` may be noticed; requests and Ctrl-C are noticed at once
_ResultT = TypeVar("_ResultT")


class FakeRemote:
    """A server that answers like Hugging Face's router, an OpenAI server or TEI, on real sockets.

    Without a script it is healthy. Steps (`enqueue`, a scenario) and `respond_with` make it
    fail: by status, by a cut at any byte, by silence, by a slow drip. `go_down` makes it refuse
    connections, `come_back` listens on the same port again. Use it as a context manager, or
    call `start` and `close`. Every method may be called from any thread.

    Args:
        answers: what is said where nothing is scripted. ``"tiny"``: the tiny models' own
            answers, so that a remote and a local answer agree; ``"echo"``: instant and made up,
            without torch; or an `Answers`, which the caller closes.
        api_key: the key to ask for, except where a reply is scripted; None asks for none.
        scenario: steps to begin with: a `Scenario`, or what `load_scenario` takes.
        port: the port to listen on; 0 picks a free one.
        embedding_model: the one model behind ``/embed`` and ``/info``.

    Raises:
        ConfigError: the scenario is wrong, or (from `start`) the port is taken.
        InvalidRequestError: there are no such answers.
    """

    def __init__(
        self,
        answers: str | Answers = "tiny",
        api_key: str | None = None,
        scenario: Scenario | str | os.PathLike[str] | Mapping[str, Any] | None = None,
        port: int = 0,
        *,
        embedding_model: str = DEFAULT_EMBEDDING_MODEL,
    ) -> None:
        self._answers = made_answers(answers)
        self._owns_answers = isinstance(answers, str)
        self._script = Script(_loaded(scenario))
        self._ledger = Ledger()
        self._api_key, self._embedding_model = api_key, embedding_model
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._service: Service | None = None
        self._workers: Workers | None = None

    @property
    def port(self) -> int:
        """The port; kept while the server is down. 0 before `start` if none was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL, for a client's ``base_url=``."""
        return f"http://{HOST}:{self._port}"

    @property
    def ledger(self) -> list[ReceivedRequest]:
        """A copy of the record: every request received since the start or `reset`, oldest first."""
        return self._ledger.all()

    # Life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; returns once connections are accepted.

        Raises:
            ConfigError: the port is taken.
            EngineClosedError: it was started before.
        """
        if self._thread is not None:
            raise EngineClosedError("a FakeRemote is started once; make another")
        bound = reserved(self._port)
        self._port = bound.getsockname()[1]
        self._workers = Workers(NUM_WORKERS, "fake-remote-answers")
        healthy = Healthy(self._answers, self._workers, self._api_key, self._embedding_model)
        self._service = Service(bound, self._script, self._ledger, healthy)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fake-remote", daemon=True
        )
        self._thread.start()
        self._control(self._service.come_back())
        return self

    def close(self) -> None:
        """Stop listening, drop every connection, end every thread. May be called twice.

        Custom answers that are stuck in a call are waited for `WORKER_PATIENCE_SECONDS`; their
        thread does not keep the interpreter from exiting.
        """
        loop, self._loop = self._loop, None
        if loop is None or self._service is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._service.close(), loop).result(CONTROL_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(CONTROL_SECONDS)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        if self._workers is not None:
            self._workers.close(WORKER_PATIENCE_SECONDS)
        close_answers = getattr(self._answers, "close", None)
        if self._owns_answers and close_answers is not None:
            close_answers()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Script ----------------------------------------------------------------------------------

    def enqueue(self, reply: Reply, times: int | None = 1, *, match: Match = ANY_REQUEST) -> None:
        """Add a step behind those that are left.

        Args:
            reply: what to answer.
            times: to how many requests; None: to all from then on.
            match: to which requests.
        """
        self._script.append(Step(reply, match, times))

    def respond_with(self, responder: Responder | None) -> None:
        """Ask a function about each request that no step admits.

        Args:
            responder: from a `ReceivedRequest` to a `Reply`, or to None for the healthy answer.
                Called from worker threads; None takes the last one back.
        """
        self._script.respond_with(responder)

    def reset(self) -> None:
        """Forget steps, responder and ledger, drop unfinished answers, and be up and healthy."""
        self._script.clear()
        self._ledger.clear()
        service = self._running()
        self._control(service.drop_answering())
        self._control(service.come_back())

    def release(self) -> None:
        """Let answers go on that are stalled, or will stall for a request already received."""
        self._control(self._running().release())

    def go_down(self) -> None:
        """Drop every connection and refuse new ones."""
        self._control(self._running().go_down())

    def come_back(self) -> None:
        """Listen on the same port again."""
        self._control(self._running().come_back())

    # Record ----------------------------------------------------------------------------------

    def wait_for(
        self, count: int, timeout: float = 10.0, *, finished: bool = False
    ) -> list[ReceivedRequest]:
        """Block until `count` requests have arrived; returns them, and any beyond.

        Args:
            count: how many.
            timeout: seconds to wait at most.
            finished: wait until that many have been answered, cut or dropped.

        Raises:
            TimeoutError: fewer were in time.
        """
        return self._ledger.wait_for(count, timeout, finished=finished)

    def take_finished(self, timeout: float) -> list[ReceivedRequest]:
        """Remove from the ledger, and return, every request whose answer has ended.

        Args:
            timeout: seconds to wait for the first; empty-handed after that.
        """
        return self._ledger.take_finished(timeout)

    def _running(self) -> Service:
        if self._loop is None or self._service is None:
            raise EngineClosedError("this FakeRemote is not running")
        return self._service

    def _control(self, work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
        if self._loop is None:
            work.close()
            raise EngineClosedError("this FakeRemote is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_SECONDS)


def _loaded(
    scenario: Scenario | str | os.PathLike[str] | Mapping[str, Any] | None,
) -> Scenario | None:
    if scenario is None or isinstance(scenario, Scenario):
        return scenario
    from hybrid_infer.testing.scenario_file import load_scenario

    return load_scenario(scenario)


def serve(
    scenario: Scenario | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    port: int = 0,
    answers: str | Answers = "tiny",
    api_key: str | None = None,
    on_ready: Callable[[FakeRemote], None] | None = None,
    on_request: Callable[[ReceivedRequest], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run a fake remote until Ctrl-C, or until `stop` is set.

    Args:
        scenario: steps to begin with; see `FakeRemote`.
        port: the port to listen on; 0 picks a free one.
        answers: where healthy answers come from.
        api_key: the key to ask for.
        on_ready: told once connections are accepted; its `FakeRemote` knows the URL.
        on_request: told about each request when its answer has ended, on the calling thread.
        stop: ends the server when set.

    Raises:
        ConfigError: the scenario is wrong, or the port is taken.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        FakeRemote(answers, api_key, scenario, port) as remote,
    ):
        if on_ready is not None:
            on_ready(remote)
        while stop is None or not stop.is_set():
            for request in remote.take_finished(_POLL_SECONDS):
                if on_request is not None:
                    on_request(request)
