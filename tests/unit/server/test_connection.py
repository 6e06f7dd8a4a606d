"""What a client holds that does not read, while the answer is too short to hold up its writer."""

import socket
import time

import pytest

from hybrid_infer import ServerSettings
from hybrid_infer.server import connection

PATIENCE_SECONDS = 60
ONE_AT_ONCE = ServerSettings(max_connections=1, body_seconds=0.2, idle_seconds=1)
ASKED = "GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n{}\r\n\r\n"


@pytest.fixture
def server(start):
    """Its kernel takes less of an answer than the description's 50 kB."""
    made = start(ONE_AT_ONCE)
    made._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return made


def until_free(server):
    """The one connection is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while server.ask("GET", "/health")[0] != 200:
        assert time.monotonic() < end


@pytest.mark.parametrize(
    "line",
    ["Connection: keep-alive", "Connection: close", "Content-Length: 1"],
    ids=["idle", "closing", "lingering"],
)
def test_a_short_answer_that_nobody_reads_is_given_up(server, monkeypatch, line):
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.settimeout(PATIENCE_SECONDS)
        silent.connect(("127.0.0.1", server.port))
        silent.sendall(ASKED.format(line).encode())
        assert silent.recv(1) == b"H"
        until_free(server)


def test_a_client_that_reads_no_more_and_has_said_its_last_word_is_given_up(server):
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.settimeout(PATIENCE_SECONDS)
        silent.connect(("127.0.0.1", server.port))
        line = "Connection: keep-alive"
        endless = ASKED.replace("/openapi.json", "/events")
        silent.sendall((ASKED.format(line) + endless.format(line)).encode())
        assert silent.recv(1) == b"H"
        silent.shutdown(socket.SHUT_WR)
        until_free(server)
