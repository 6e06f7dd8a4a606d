"""The server as a process of its own, for tests that drive it with other people's clients."""

import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack

import pytest

SERVE = [sys.executable, "-m", "hybrid_infer", "serve", "--port", "0", "--dtype", "float32"]
PATIENCE_SECONDS = 60


class ServerProcess:
    """``hybrid-infer serve``, from its ready line on."""

    def __init__(self, *words, **environment):
        self.process = subprocess.Popen(
            [*SERVE, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        self.url = line.split()[3]
        self.port = int(self.url.rpartition(":")[2])

    def get(self, path, headers=None):
        asked = urllib.request.Request(self.url + path, headers=headers or {})  # noqa: S310
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            return json.load(answer)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(PATIENCE_SECONDS)

    def close(self):
        """End it the hard way, if it still runs, and give back what it has said."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        return self.process.communicate()


@pytest.fixture(scope="module")
def start_server():
    """Starts servers; all end with the module."""
    with ExitStack() as stack:

        def start(*words, **environment):
            server = ServerProcess(*words, **environment)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="module")
def server(start_server):
    """One server on the tiny profile, without a key."""
    return start_server("--profile", "tiny")


@pytest.fixture
def own_globals(monkeypatch, tmp_path):
    """The tiny profile; what an example leaves behind in others' modules is taken away again."""
    import llm
    import prometheus_client

    from hybrid_infer.adapters import llm as plugin
    from hybrid_infer.adapters.llm_interface import LLMInterface

    monkeypatch.setenv("HYBRID_INFER_PROFILE", "tiny")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    monkeypatch.setattr("hybrid_infer.observers.prometheus.REGISTRY", registry)
    handlers, level = list(logging.root.handlers), logging.root.level
    yield llm
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.getLogger("hybrid_infer.calls").setLevel(logging.NOTSET)
    LLMInterface.close()
    plugin.client().close()
    plugin.client.cache_clear()
