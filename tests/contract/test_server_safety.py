"""A server process seen by clients that have no key, send too much, are slow, or leave."""

import base64
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys

import openai
import pytest

from hybrid_infer.testing import FakeRemote, Reply

KEY = "a-key-of-the-server"
PROMPT = [{"role": "user", "content": "these words come back one after another"}]
SMALL = {"max_body_bytes": 4096, "drain_seconds": 30}
SOON = {"header_seconds": 0.4, "body_seconds": 0.4}  # only for what is late: a test may be, too
PATIENCE_SECONDS = 60


def limits_in(folder, limits):
    """A file that sets a server's limits."""
    path = folder / "models.yaml"
    path.write_text(json.dumps({"settings": {"server": limits}}))
    return path


@pytest.fixture(scope="module")
def limits_file(tmp_path_factory):
    return limits_in(tmp_path_factory.mktemp("models"), SMALL)


@pytest.fixture(scope="module")
def locked(start_server, limits_file):
    """A server with a key and tight limits."""
    words = ("--profile", "tiny", "--models", str(limits_file))
    return start_server(*words, HYBRID_INFER_SERVER_KEY=KEY)


@pytest.fixture(scope="module")
def hurried(start_server, tmp_path_factory):
    """The same, and whoever is late is refused soon."""
    path = limits_in(tmp_path_factory.mktemp("models"), SMALL | SOON)
    words = ("--profile", "tiny", "--models", str(path))
    return start_server(*words, HYBRID_INFER_SERVER_KEY=KEY)


class Raw:
    """Bytes out, an answer in."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """Status, headers, and the JSON that came with them."""
        with contextlib.closing(http.client.HTTPResponse(self.socket)) as got:
            got.begin()
            return got.status, got.headers, json.loads(got.read())

    def has_ended(self):
        return self.socket.recv(1) == b""


def head(path="/v1/embeddings", *lines, method="POST", key=KEY):
    told = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}"]
    return "\r\n".join([*told, *lines, "", ""]).encode()


@pytest.fixture
def raw(locked):
    with Raw(locked.port) as client:
        yield client


@pytest.fixture
def late(hurried):
    with Raw(hurried.port) as client:
        yield client


class TestKeys:
    def ask(self, locked, method, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", locked.port, timeout=PATIENCE_SECONDS)
        body = "{}" if method == "POST" else None
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def test_every_route_asks_for_the_key(self, locked):
        description = locked.get("/openapi.json", {"authorization": f"Bearer {KEY}"})
        routes = [(m.upper(), path) for path, item in description["paths"].items() for m in item]
        assert len(routes) >= 13
        for method, path in [*routes, ("GET", "/openapi.json"), ("GET", "/"), ("GET", "/nix")]:
            for headers in (
                {},
                {"authorization": f"Bearer {KEY}x"},
                {"authorization": f"Bearer {KEY[:-1]}"},
                {"authorization": KEY},
                {"authorization": "Basic !"},
                {"authorization": "Basic " + base64.b64encode(b"u:wrong").decode()},
                {"api-key": KEY},
            ):
                status, told, body = self.ask(
                    locked, method, path.replace("{model}", "small"), **headers
                )
                assert status == 401, (method, path, headers)
                assert told["www-authenticate"] == "Bearer"
                assert json.loads(body)["error"]["code"] == "invalid_api_key"
                assert KEY.encode() not in body

    def test_the_key_opens(self, locked):
        assert locked.get("/health", {"authorization": f"Bearer {KEY}"}) == {"status": "ok"}
        basic = base64.b64encode(f"anyone:{KEY}".encode()).decode()
        assert locked.get("/health", {"authorization": f"Basic {basic}"}) == {"status": "ok"}
        with openai.OpenAI(base_url=locked.url + "/v1", api_key=KEY) as client:
            assert client.models.list().data
        with (
            openai.OpenAI(base_url=locked.url + "/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()

    def test_a_browser_is_asked_to_ask(self, locked):
        status, told, _ = self.ask(locked, "GET", "/", accept="text/html,*/*")
        assert status == 401
        assert told["www-authenticate"].startswith("Basic realm=")

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::1"])
    def test_another_machine_s_name_is_refused(self, locked, host):
        bearer = f"Bearer {KEY}"
        status, _, body = self.ask(locked, "GET", "/health", host=host, authorization=bearer)
        assert (status, json.loads(body)["error"]["code"]) == (403, "wrong_host")

    @pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:80"])
    def test_this_machine_s_names_are_right(self, locked, host):
        bearer = f"Bearer {KEY}"
        assert self.ask(locked, "GET", "/health", host=host, authorization=bearer)[0] == 200

    def test_pages_of_other_sites_are_refused(self, locked):
        bearer, own = f"Bearer {KEY}", f"127.0.0.1:{locked.port}"
        for origin in ("http://evil.example", "null", f"https://{own}", "http://127.0.0.1"):
            status, _, body = self.ask(
                locked, "GET", "/health", authorization=bearer, origin=origin
            )
            assert (status, json.loads(body)["error"]["code"]) == (403, "wrong_origin")
        status, told, _ = self.ask(
            locked, "GET", "/health", authorization=bearer, origin=f"http://{own}"
        )
        assert status == 200
        assert not any(name.lower().startswith("access-control") for name in told)

    def test_a_proxy_may_show_its_name_over_tls(self, start_server, limits_file):
        words = ("--profile", "tiny", "--models", str(limits_file))
        proxied = start_server(*words, "--allowed-host", "Chat.example")

        def status(host, origin):
            return self.ask(proxied, "GET", "/health", host=host, origin=origin)[0]

        assert status("chat.example", "https://chat.example") == 200
        assert status("chat.example:8443", "https://chat.example:8443") == 200
        assert status("chat.example", "http://chat.example") == 200
        for host, origin in (
            ("chat.example", "https://chat.example:8443"),
            ("chat.example", "https://evil.example"),
            ("chat.example", "https://chat.example.evil.example"),
            ("localhost", "https://chat.example"),
            ("localhost", "https://localhost"),
            ("evil.example", "https://evil.example"),
        ):
            assert status(host, origin) == 403, (host, origin)


class TestLimits:
    def test_a_body_that_says_it_is_too_large(self, raw):
        raw.send(head("/v1/embeddings", "Content-Length: 1000000"))
        status, headers, body = raw.answer()
        assert (status, body["error"]["code"]) == (413, "body_too_large")
        assert headers["connection"] == "close"
        assert raw.has_ended()

    def test_a_body_that_turns_out_too_large_is_read_no_further(self, raw):
        raw.send(head("/v1/embeddings", "Transfer-Encoding: chunked"))
        raw.send(b"1000\r\n" + b" " * 0x1000 + b"\r\n1\r\n \r\n")
        assert raw.answer()[0] == 413
        raw.send(b"1000\r\n" * 10)  # a client that has not read the answer yet
        assert raw.has_ended()

    def test_a_large_upload_gets_its_answer(self, locked):
        with (
            openai.OpenAI(base_url=locked.url + "/v1", api_key=KEY, max_retries=0) as client,
            pytest.raises(openai.APIStatusError) as caught,
        ):
            client.embeddings.create(input="x" * 20_000_000, model="small")
        assert caught.value.status_code == 413

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_body_that_never_ends(self, late, method):
        late.send(head("/v1/embeddings", "Content-Length: 100", method=method) + b'{"input":')
        assert late.answer()[0] == {"GET": 405, "POST": 408}[method]
        assert late.has_ended()

    def test_a_head_that_never_ends(self, late):
        late.send(b"GET /health HTTP/1.1\r\nHost: 127")
        status, _, body = late.answer()
        assert (status, body["error"]["code"]) == (408, "request_timeout")
        assert late.has_ended()

    def test_a_second_head_that_never_ends(self, late):
        late.send(head("/health", method="GET"))
        assert late.answer()[0] == 200
        late.send(b"GET /hea")
        assert late.answer()[0] == 408

    def test_a_client_that_says_nothing(self, late):
        assert late.has_ended()

    @pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
    def test_a_head_that_is_too_large(self, raw, end):
        raw.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 17_000 + end)
        status, _, body = raw.answer()
        assert (status, body["error"]["code"]) == (431, "headers_too_large")
        assert raw.has_ended()

    def test_what_is_not_http(self, raw):
        raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert raw.answer()[2]["error"]["code"] == "bad_request"
        assert raw.has_ended()

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (b"[" * 3000, "not JSON"),
            (b'{"messages":' + b"[" * 40 + b"]" * 40 + b"}", "16 deep"),
            (b'{"input": NaN}', "not JSON"),
            (b'{"input": "\\ud800"}', "not JSON"),
            (b'"text"', "a JSON object"),
            (b"", "not JSON"),
        ],
    )
    def test_a_body_that_is_no_request(self, raw, body, told):
        json_type = "Content-Type: application/json"
        raw.send(head("/v1/embeddings", json_type, f"Content-Length: {len(body)}") + body)
        status, _, answer = raw.answer()
        assert status == 400
        assert told in answer["error"]["message"]

    def test_a_form_is_not_json(self, raw):
        form = "Content-Type: application/x-www-form-urlencoded"
        raw.send(head("/v1/embeddings", form, "Content-Length: 2") + b"{}")
        assert raw.answer()[0] == 415


@pytest.fixture(scope="module")
def remote():
    with FakeRemote(answers="echo") as made:
        yield made


@pytest.fixture(scope="module")
def relaying(start_server, remote, limits_file):
    """A server that asks a remote."""
    words = ("--profile", "tiny", "--policy", "remote-only", "--base-url", remote.url)
    return start_server(*words, "--models", str(limits_file))


@pytest.mark.parametrize(
    ("path", "stream"),
    [("/v1/chat/completions", True), ("/v1/chat/completions", False), ("/v1/embeddings", False)],
)
def test_a_client_that_leaves_stops_the_work(relaying, remote, path, stream):
    remote.reset()
    remote.enqueue(Reply(stall_after_events=2) if stream else Reply(stall_after_bytes=0))
    body = {"model": "small", "input": "a"} if "emb" in path else {"messages": PROMPT}
    if stream:
        body["stream"] = True
    text = json.dumps(body).encode()
    with Raw(relaying.port) as client:
        json_type = "Content-Type: application/json"
        client.send(head(path, json_type, f"Content-Length: {len(text)}") + text)
        remote.wait_for(1, timeout=PATIENCE_SECONDS)
        if stream:
            assert b"200 OK" in client.socket.recv(65_536)
    (request,) = remote.wait_for(1, finished=True, timeout=PATIENCE_SECONDS)
    assert request.finished  # nobody reads it: the server has closed its connection to the remote
    assert relaying.get("/status")["requests_in_progress"] == 0


def test_an_error_within_a_stream_is_its_last_event(relaying, remote):
    remote.reset()
    remote.enqueue(Reply(cut_after_events=2), times=9)
    with openai.OpenAI(base_url=relaying.url + "/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(messages=PROMPT, model="small", stream=True)
        assert next(stream).choices
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "stream_interrupted"
    assert caught.value.body["type"] == "server_error"


@pytest.mark.parametrize(
    ("reply", "status", "code", "wait"),
    [
        (Reply(status=429, headers={"Retry-After": "600"}), 429, "rate_limit_exceeded", "600"),
        (Reply(status=402), 402, "quota_exceeded", None),
        (Reply(status=401), 502, "upstream_authentication", None),
        (Reply(status=404), 404, "model_not_available", None),
        (Reply(status=500), 502, "upstream_error", None),
        (Reply(status=422), 400, "invalid_value", None),
    ],
)
def test_a_remote_s_refusal_has_the_right_status(
    start_server, remote, limits_file, reply, status, code, wait
):
    remote.reset()
    remote.enqueue(reply, times=9)
    words = ("--profile", "tiny", "--policy", "remote-only", "--base-url", remote.url)
    server = start_server(*words, "--models", str(limits_file))
    with (
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.embeddings.create(input="a", model="small")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.response.headers.get("retry-after") == wait
    server.close()


# A load that never comes to its end, in torch or on its way there.
LOADS_FOR_EVER = """
import sys

import torch

from hybrid_infer.cli import main
from hybrid_infer.local import loading


def load_engine(*_, **__):
    numbers = torch.ones(300, 300)
    print("it loads", flush=True)
    while True:
        torch.mm(numbers, numbers)


loading.load_engine = load_engine
main(sys.argv[1:])
"""


class TestStopping:
    """One signal drains, two end at once."""

    @pytest.fixture
    def busy(self, start_server, remote, limits_file):
        remote.reset()
        words = ("--profile", "tiny", "--policy", "remote-only", "--base-url", remote.url)
        return start_server(*words, "--models", str(limits_file))

    @staticmethod
    def wait_until_nobody_listens(port):
        while True:
            try:
                with Raw(port) as late:
                    late.send(head("/health", method="GET"))
                    assert late.answer()[0] == 503
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # the kernel had accepted it, and the server did not
                continue

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_one_signal_finishes_what_is_in_progress(self, busy, remote, number):
        remote.enqueue(Reply(drip_bytes=256, drip_seconds=0.1))
        with openai.OpenAI(base_url=busy.url + "/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(messages=PROMPT, model="small", stream=True)
            next(stream)
            busy.signal(number)
            assert "no new requests" in busy.process.stderr.readline()
            self.wait_until_nobody_listens(busy.port)
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"
        assert busy.wait() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_ends_it_at_once(self, busy, remote, number):
        remote.enqueue(Reply(stall_after_events=2))
        with openai.OpenAI(base_url=busy.url + "/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(messages=PROMPT, model="small", stream=True)
            next(stream)
            busy.signal(number)
            assert "no new requests" in busy.process.stderr.readline()
            busy.signal(number)
            assert busy.wait() == 128 + number

    def test_a_load_in_progress_makes_no_crash_of_it(self, tmp_path):
        path = limits_in(tmp_path, {"drain_seconds": 1})
        words = ("serve", "--port", "0", "--profile", "tiny", "--policy", "local-only")
        with subprocess.Popen(
            [sys.executable, "-c", LOADS_FOR_EVER, *words, "--models", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                url = process.stdout.readline().split()[3]
                with Raw(int(url.rpartition(":")[2])) as client:
                    body = b'{"input": "a"}'
                    client.send(head("/v1/embeddings", f"Content-Length: {len(body)}") + body)
                    assert process.stdout.readline() == "it loads\n"
                    process.send_signal(signal.SIGTERM)
                    assert client.answer()[0] == 503
                assert process.wait(PATIENCE_SECONDS) == 0
                assert "no new requests" in process.stderr.read()
            finally:
                process.kill()

    def test_what_does_not_end_is_cut_off_in_time(self, start_server, remote, tmp_path):
        remote.reset()
        remote.enqueue(Reply(stall_after_events=2))
        path = limits_in(tmp_path, {"drain_seconds": 1})
        words = ("--profile", "tiny", "--policy", "remote-only", "--base-url", remote.url)
        server = start_server(*words, "--models", str(path))
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(messages=PROMPT, model="small", stream=True)
            next(stream)
            server.signal(signal.SIGTERM)
            with pytest.raises(openai.APIError) as caught:
                list(stream)
        assert caught.value.code == "shutting_down"
        assert server.wait() == 0
        assert "Traceback" not in server.close()[1]
