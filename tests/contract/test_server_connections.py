"""A server process seen by clients that bend HTTP: pipelines, trailers, and answers left unread."""

import http.client
import io
import json
import socket
import time

import pytest

from hybrid_infer.server.connection import MAX_PIPELINED
from hybrid_infer.testing import FakeRemote, Reply

KEY = "a-key-of-the-server"
LIMITS = {"max_body_bytes": 40_000}
SOON = {"header_seconds": 0.4, "body_seconds": 0.4}  # only for what is late: a test may be, too
PATIENCE_SECONDS = 60
ASK = b'{"input": "a", "model": "small"}'
CHUNK = b"%x\r\n%s\r\n" % (len(ASK), ASK)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def start_limited(start_server, tmp_path_factory):
    """Starts servers with tight limits."""

    def start(*words, environment=None, **limits):
        path = tmp_path_factory.mktemp("models") / "models.yaml"
        path.write_text(json.dumps({"settings": {"server": LIMITS | limits}}))
        words = ("--profile", "tiny", "--models", str(path), *words)
        return start_server(*words, **(environment or {}))

    return start


@pytest.fixture(scope="module")
def locked(start_limited):
    """A server with a key, which must not have stumbled over any of it."""
    server = start_limited(environment={"HYBRID_INFER_SERVER_KEY": KEY})
    yield server
    assert "Traceback" not in server.close()[1]


@pytest.fixture(scope="module")
def hurried(start_limited):
    """The same, and whoever is late is refused soon."""
    server = start_limited(environment={"HYBRID_INFER_SERVER_KEY": KEY}, **SOON)
    yield server
    assert "Traceback" not in server.close()[1]


class Kept(io.BufferedReader):
    """What is read ahead of one answer belongs to the next."""

    def close(self):
        """Another answer may follow."""


class Raw:
    """Bytes out, answers in."""

    def __init__(self, port, receive_bytes=None):
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_SECONDS)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.file = Kept(socket.SocketIO(self.socket, "r"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def makefile(self, _):
        return self.file

    def send(self, data):
        self.socket.sendall(data)

    def answer(self, method="GET"):
        """Status and text of the next answer."""
        got = http.client.HTTPResponse(self, method=method)
        got.begin()
        return got.status, got.read().decode()

    def has_ended(self):
        return self.file.read(1) == b""


def head(path="/v1/embeddings", *lines, method="POST", key=KEY):
    told = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    told += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*told, *lines, "", ""]).encode()


@pytest.fixture
def raw(locked):
    with Raw(locked.port) as client:
        yield client


@pytest.fixture
def late(hurried):
    with Raw(hurried.port) as client:
        yield client


class TestTrailers:
    def test_they_are_read_and_dropped(self, raw):
        raw.send(head("/v1/embeddings", CHUNKED) + CHUNK + b"0\r\nX-Sum: 1\r\n\r\n")
        assert raw.answer()[0] == 200
        raw.send(head("/health", method="GET"))
        assert raw.answer()[0] == 200

    @pytest.mark.parametrize("line", ["Host: evil.example", "Origin: http://evil.example"])
    def test_they_do_not_stand_for_headers(self, raw, line):
        raw.send(head("/v1/embeddings", CHUNKED) + CHUNK + f"0\r\n{line}\r\n\r\n".encode())
        assert raw.answer()[0] == 200

    def test_they_hold_no_key(self, raw):
        bearer = f"Authorization: Bearer {KEY}"
        raw.send(head("/v1/embeddings", CHUNKED, key=None) + CHUNK)
        raw.send(f"0\r\n{bearer}\r\n\r\n".encode())
        assert raw.answer()[0] == 401

    @pytest.mark.parametrize(
        "trailers",
        [b"X: " + b"y" * 1000_000, b"X: %s\r\n" % (b"y" * 1000) * 20, b";x" * 500_000],
        ids=["one without end", "many", "an extension without end"],
    )
    def test_too_many_are_refused(self, raw, trailers):
        raw.send(head("/v1/embeddings", CHUNKED) + CHUNK)
        raw.send((b"0" if trailers.startswith(b";") else b"0\r\n") + trailers)
        status, text = raw.answer()
        assert (status, json.loads(text)["error"]["code"]) == (431, "headers_too_large")
        assert raw.has_ended()

    def test_a_body_in_tiny_pieces_is_a_body(self, raw):
        raw.send(head("/v1/embeddings", CHUNKED))
        raw.send(b"1\r\n \r\n" * 30_000 + CHUNK + b"0\r\n\r\n")
        assert raw.answer()[0] == 200


@pytest.mark.parametrize(
    "line", ["Host: 127.0.0.1", f"Authorization: Bearer {KEY}", "Origin: http://127.0.0.1"]
)
def test_a_header_that_must_be_one_is_not_two(raw, line):
    raw.send(head("/health", line, line, method="GET"))
    status, text = raw.answer()
    assert (status, json.loads(text)["error"]["code"]) == (400, "repeated_header")
    assert raw.has_ended()


def test_a_body_that_stops_being_http(raw):
    raw.send(head("/v1/embeddings", CHUNKED) + b"1\r\n{\r\n")
    raw.send(b"not a size\r\n")
    status, text = raw.answer()
    assert (status, json.loads(text)["error"]["code"]) == (400, "bad_request")
    assert raw.has_ended()


def test_a_head_alone_is_asked_for_a_body_that_does_not_come(raw):
    raw.send(head("/v1/embeddings", "Content-Length: 5", method="HEAD"))
    assert raw.answer("HEAD")[0] == 405
    assert raw.has_ended()


class TestOldClients:
    """Of HTTP/1.0, which has neither chunks nor a Host."""

    @staticmethod
    def old(ask):
        return ask.replace(b"HTTP/1.1", b"HTTP/1.0")

    def test_a_streamed_answer_is_not_in_chunks(self, relaying, remote):
        remote.reset()
        with Raw(relaying.port) as client:
            client.send(self.old(chat(stream=True)))
            head, _, body = client.file.read().partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        *events, done, rest = body.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        texts = [json.loads(event.removeprefix(b"data: "))["choices"] for event in events]
        assert "another" in "".join(text[0]["delta"].get("content") or "" for text in texts if text)

    def test_nobody_is_told_to_continue(self, relaying, remote):
        remote.reset()
        asked = self.old(chat(stream=True)).replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
        with Raw(relaying.port) as client:
            client.send(asked)
            answer = client.file.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"data: [DONE]\n\n")

    @pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere"])
    def test_any_other_answer_is_whole_and_the_last(self, raw, path):
        raw.send(self.old(head(path, method="GET")))
        assert raw.answer()[0] == (404 if path == "/nowhere" else 200)
        assert raw.has_ended()

    def test_they_need_name_no_host(self, raw):
        raw.send(self.old(head("/health", method="GET")).replace(b"Host: 127.0.0.1\r\n", b""))
        assert raw.answer()[0] == 200

    def test_without_one_a_page_is_still_another_site_s(self, raw):
        asked = self.old(head("/health", "Origin: http://", method="GET"))
        raw.send(asked.replace(b"Host: 127.0.0.1\r\n", b""))
        assert raw.answer()[0] == 403

    def test_newer_ones_must(self, raw):
        raw.send(head("/health", method="GET").replace(b"Host: 127.0.0.1\r\n", b""))
        status, text = raw.answer()
        assert (status, json.loads(text)["error"]["code"]) == (400, "missing_host")
        assert raw.has_ended()


class TestOffers:
    """A client that offers HTTP/2, as Java's does with every first request, is answered in HTTP/1.1."""

    LINES = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")

    @pytest.mark.parametrize("pieces", [1, 2, 3])
    def test_the_body_is_the_request_s_whatever_packet_it_comes_in(self, raw, pieces):
        inner = head("/v1/models", method="GET")
        ask = json.dumps({"input": inner.decode(), "model": "small"}).encode()
        begin = head("/v1/embeddings", *self.LINES, f"Content-Length: {len(ask)}")
        parts = {
            1: [begin + ask],
            2: [begin, ask],
            3: [begin[:70], begin[70:] + ask[:20], ask[20:]],
        }
        for _ in range(2):
            for part in parts[pieces]:
                raw.send(part)
            assert raw.answer()[0] == 200
        raw.send(head("/health", method="GET"))
        assert json.loads(raw.answer()[1]) == {"status": "ok"}

    def test_a_body_that_is_no_json_but_another_request_is_one_wrong_request(self, raw):
        inner = head("/v1/models", method="GET")
        raw.send(head("/v1/embeddings", *self.LINES, f"Content-Length: {len(inner)}"))
        raw.send(inner)
        assert raw.answer()[0] == 400
        raw.send(head("/health", method="GET"))
        assert json.loads(raw.answer()[1]) == {"status": "ok"}

    def test_a_tunnel_is_refused(self, raw):
        raw.send(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + head("/health"))
        assert raw.answer()[0] == 400
        assert raw.has_ended()


class TestPipelines:
    def test_a_whole_request_is_answered_before_one_that_is_not(self, late):
        whole = head("/health", method="GET")
        late.send(whole + head("/v1/embeddings", "Content-Length: 9") + b"{")
        assert late.answer()[0] == 200
        assert late.answer()[0] == 408
        assert late.has_ended()

    def test_a_rest_that_arrives_later(self, raw):
        rest = head("/v1/embeddings", f"Content-Length: {len(ASK)}") + ASK
        raw.send(head("/health", method="GET") * 3 + rest[:-9])
        assert [raw.answer()[0] for _ in range(3)] == [200] * 3
        raw.send(rest[-9:])
        assert raw.answer()[0] == 200

    def test_a_head_that_never_ends_is_behind_them(self, late):
        late.send(head("/health", method="GET") * 2 + b"GET /hea")
        assert [late.answer()[0] for _ in range(3)] == [200, 200, 408]
        assert late.has_ended()

    def test_what_is_not_http_takes_no_answer_away(self, raw):
        raw.send(head("/health", method="GET") * 2 + b"\x00\r\n\r\n")
        assert [raw.answer()[0] for _ in range(2)] == [200] * 2
        assert raw.has_ended()

    def test_a_flood_is_cut_short(self, raw):
        ask = head("/v1/embeddings", f"Content-Length: {len(ASK)}") + ASK
        raw.send(ask + head("/health", method="GET") * MAX_PIPELINED + ask)
        assert [raw.answer()[0] for _ in range(MAX_PIPELINED + 1)] == [200] * (MAX_PIPELINED + 1)
        assert raw.has_ended()


@pytest.fixture(scope="module")
def remote():
    with FakeRemote(answers="echo") as made:
        yield made


@pytest.fixture(scope="module")
def roomy(start_limited, remote):
    """A server that asks a remote, and takes large bodies."""
    return start_limited(
        "--policy", "remote-only", "--base-url", remote.url, max_body_bytes=100_000
    )


@pytest.fixture(scope="module")
def relaying(start_limited, remote):
    """A server that asks a remote."""
    server = start_limited("--policy", "remote-only", "--base-url", remote.url)
    yield server
    assert "Traceback" not in server.close()[1]


@pytest.fixture(scope="module")
def hurried_relaying(start_limited, remote):
    """The same, and whoever is late is refused soon."""
    server = start_limited("--policy", "remote-only", "--base-url", remote.url, **SOON)
    yield server
    assert "Traceback" not in server.close()[1]


def chat(path="/v1/chat/completions", **options):
    prompt = [{"role": "user", "content": "these words come back one after another"}]
    body = json.dumps({"messages": prompt, "model": "small", **options}).encode()
    return head(path, f"Content-Length: {len(body)}") + body


@pytest.mark.parametrize("behind", [1, 3, MAX_PIPELINED + 1, "a body"])
def test_a_client_that_leaves_requests_behind_stops_the_work(roomy, remote, behind):
    remote.reset()
    remote.enqueue(Reply(stall_after_bytes=0))
    with Raw(roomy.port) as client:
        client.send(chat())
        remote.wait_for(1, timeout=PATIENCE_SECONDS)
        if behind == "a body":
            client.send(head("/v1/embeddings", "Content-Length: 90000") + b" " * 80_000)
        else:
            client.send(head("/health", method="GET") * behind)
        assert roomy.get("/health") == {"status": "ok"}  # so that has been read, and no end with it
    (request,) = remote.wait_for(1, finished=True, timeout=PATIENCE_SECONDS)
    assert request.finished


class TestStreams:
    """A stream, and what the client says meanwhile."""

    @staticmethod
    def begin(client, remote):
        """It will take about a second."""
        remote.reset()
        remote.enqueue(Reply(drip_bytes=128, drip_seconds=0.1))
        client.send(chat(stream=True))
        remote.wait_for(1, timeout=PATIENCE_SECONDS)

    @pytest.fixture
    def stream(self, relaying, remote):
        """A client whose stream has begun."""
        with Raw(relaying.port) as client:
            self.begin(client, remote)
            yield client

    @pytest.fixture
    def late_stream(self, hurried_relaying, remote):
        """A client whose stream has begun, and takes longer than a head may."""
        with Raw(hurried_relaying.port) as client:
            self.begin(client, remote)
            yield client

    def test_what_is_not_http_is_not_answered_within(self, stream):
        stream.send(b"\x00\x01\r\n\r\n")
        status, text = stream.answer()
        assert (status, text[-14:]) == (200, "data: [DONE]\n\n")
        assert stream.has_ended()

    def test_a_slow_head_is_refused_after_it(self, late_stream):
        late_stream.send(b"GET /hea")
        status, text = late_stream.answer()
        assert (status, text[-14:]) == (200, "data: [DONE]\n\n")
        assert late_stream.answer()[0] == 408
        assert late_stream.has_ended()

    def test_bodies_behind_it_are_together_no_larger_than_one_may_be(self, stream):
        ask = head("/v1/embeddings", "Content-Length: 30000") + b"{}" + b" " * 29_998
        stream.send(ask * 2)
        status, text = stream.answer()
        assert (status, text[-14:]) == (200, "data: [DONE]\n\n")
        assert stream.answer()[0] == 400
        status, text = stream.answer()
        assert (status, json.loads(text)["error"]["code"]) == (429, "overloaded")
        assert stream.has_ended()

    def test_what_waited_is_forgotten_with_its_answer(self, stream):
        ask = head("/v1/embeddings", "Content-Length: 30000") + b"{}" + b" " * 29_998
        stream.send(ask)
        assert [stream.answer()[0] for _ in range(2)] == [200, 400]
        stream.send(head("/health", method="GET") + ask)
        assert [stream.answer()[0] for _ in range(2)] == [200, 400]

    def test_empty_lines_are_no_head(self, late_stream):
        late_stream.send(b"\r\n")
        status, text = late_stream.answer()
        assert (status, text[-14:]) == (200, "data: [DONE]\n\n")
        late_stream.send(b"\r")
        late_stream.send(b"\n" + head("/health", method="GET"))
        assert late_stream.answer()[0] == 200


@pytest.mark.parametrize("line", ["Connection: keep-alive", "Connection: close"])
def test_an_answer_that_nobody_reads_is_given_up(start_limited, line):
    server = start_limited(max_connections=1, **SOON)
    body = json.dumps({"input": ["a"] * 2048, "model": "small"}).encode()
    with Raw(server.port, receive_bytes=4096) as silent:
        silent.send(head("/v1/embeddings", line, f"Content-Length: {len(body)}") + body)
        assert silent.socket.recv(1) == b"H"
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            with Raw(server.port) as other:
                other.send(head("/health", method="GET"))
                if other.answer()[0] == 200:  # the one connection is free again
                    break
            assert time.monotonic() < end
    assert "Traceback" not in server.close()[1]
