"""The server on a thread of the test's own process, so that tests can look inside."""

import http.client
import json
import threading

import pytest

from hybrid_infer import AsyncHybridClient, ServerSettings
from hybrid_infer.observers import combine
from hybrid_infer.server.app import create_app
from hybrid_infer.server.lifecycle import HybridServer, listening_socket
from hybrid_infer.server.metrics import Metrics
from hybrid_infer.server.options import server_options
from hybrid_infer.server.statistics import Statistics

PATIENCE_SECONDS = 60


class RunningServer:
    """A server around a real client, on a thread with its own event loop."""

    def __init__(self, limits=None, key=None, token_texts=None, **arguments):
        self.statistics, metrics = Statistics(), Metrics()
        self.options = server_options("127.0.0.1", 0, key)
        limits = limits or ServerSettings()
        arguments = {"profile": "tiny", "policy": "local-only", "dtype": "float32"} | arguments
        observer = combine(self.statistics, metrics)
        self.client = AsyncHybridClient(**arguments, on_event=observer)
        app = create_app(self.client, self.options, limits, self.statistics, metrics, token_texts)
        self.service = app.service
        self._listening = listening_socket(self.options)
        self.port = self._listening.getsockname()[1]
        ready = threading.Event()
        self._server = HybridServer(app, self.options, limits, lambda _: ready.set())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE_SECONDS)

    def _run(self):
        self._server.run(sockets=[self._listening])

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and what the body holds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        payload = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"} | (headers or {})
        connection.request(method, path, payload, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        is_json = answer.headers["content-type"] == "application/json"
        document = json.loads(data) if is_json and data else data.decode()
        return answer.status, answer.headers, document

    def close(self):
        self._server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def start():
    """Starts servers; all end with the test."""
    started = []

    def start_one(*arguments, **options):
        started.append(RunningServer(*arguments, **options))
        return started[-1]

    yield start_one
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def server():
    made = RunningServer()
    yield made
    made.close()
