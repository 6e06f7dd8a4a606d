import http.client
import json
import socket

import pytest

from hybrid_infer.testing import FakeRemote

TIMEOUT_SECONDS = 20.0


class Client:
    """A keep-alive HTTP client of the standard library."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)

    def send(self, method, path, body=None, headers=None):
        payload = json.dumps(body) if isinstance(body, dict | list) else body
        self._connection.request(method, path, payload, headers or {})
        response = self._connection.getresponse()
        response.data = response.read()
        return response

    def post(self, path, body, headers=None):
        return self.send("POST", path, body, headers)

    def chat(self, content="hi there you", **options):
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **options}
        return self.post("/v1/chat/completions", body)

    def close(self):
        self._connection.close()


class RawClient:
    """Bytes out, bytes in."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)

    def send(self, data):
        self.socket.sendall(data)

    def get(self, path="/health"):
        self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    def read(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                break
            data += piece
        return data

    def read_all(self):
        return self.read(1 << 30)

    def close(self):
        self.socket.close()


@pytest.fixture(scope="module")
def module_fake():
    with FakeRemote("echo") as remote:
        yield remote


@pytest.fixture
def fake(module_fake):
    module_fake.reset()
    yield module_fake
    module_fake.reset()


@pytest.fixture
def client(fake):
    made = Client(fake.port)
    yield made
    made.close()


@pytest.fixture
def connect(fake):
    made = []

    def make():
        made.append(RawClient(fake.port))
        return made[-1]

    yield make
    for one in made:
        one.close()
