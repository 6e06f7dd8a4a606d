"""A model folder, a Hub cache of one's own, and a Hub on loopback."""

import hashlib
import json
import threading
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny_models
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.tiny import write_tiny

REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"


@pytest.fixture(scope="session")
def pinned():
    return ModelSpec(
        "embeddings",
        "small",
        "sentence-transformers/all-MiniLM-L6-v2",
        REVISION,
        dim=384,
        max_seq_length=256,
        pooling="mean",
        dense=False,
        prompt="",
    )


@pytest.fixture(scope="session")
def unpinned():
    return ModelSpec("embeddings", None, "org/model", None)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny(
        tiny_models.bert(load_registry(profile="tiny").resolve("embeddings", "small")), folder
    )
    return folder


@pytest.fixture(scope="session")
def dense_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    write_tiny(tiny_models.t5(load_registry(profile="tiny").resolve("embeddings", "large")), folder)
    return folder


@pytest.fixture
def staged(hub, model_folder, pinned):
    """A private copy, so that a test may damage it."""
    folder = stage(model_folder, pinned)
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    return folder


def git_blob_id(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def is_large(name):
    return name.endswith((".safetensors", ".bin", ".gguf"))


class FakeHub:
    """A repository's tree and files as the Hub serves them, and what was asked of it.

    `answer` replaces every reply by (status, headers), `sends` the bytes of a file but not what is
    said of them. After as many bytes of a file as `stops` says, the connection is cut; or, with
    `is_halting`, nothing more comes until `go_on` is set. `has_ranges` is False: a range is answered
    with the whole file. `elsewhere`: files are redirected to that server, as the Hub does.
    """

    def __init__(self, folder):
        self.files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        self.answer = None
        self.sends = {}
        self.stops = {}
        self.is_halting = False
        self.halted, self.go_on = threading.Event(), threading.Event()
        self.has_ranges = True
        self.elsewhere = None
        self.requests = []
        self.ranges = []
        self.url = ""

    def reply(self, path):
        if self.answer is not None:
            return (*self.answer, b"{}")
        if "/tree/" in path:
            listed = [self.entry(name) for name in self.files]
            return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
        if "/revision/" in path:
            body = {"id": "org/model", "sha": REVISION, "siblings": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        name = path.partition("?")[0].partition(f"/resolve/{REVISION}/")[2]
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return (
            200,
            {"ETag": f'"{self.etag(name)}"', "X-Repo-Commit": REVISION},
            self.sends.get(name, self.files[name]),
        )

    def entry(self, name):
        body = self.files[name]
        found = {"type": "file", "path": name, "size": len(body), "oid": git_blob_id(body)}
        if is_large(name):
            found["lfs"] = {"oid": self.etag(name), "size": len(body), "pointerSize": 134}
        return found

    def etag(self, name):
        """As the Hub: SHA-256 for what LFS keeps, git's own name for the rest."""
        body = self.files[name]
        return hashlib.sha256(body).hexdigest() if is_large(name) else git_blob_id(body)

    def fetched(self):
        return [
            path.partition(f"/resolve/{REVISION}/")[2]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


class HubHandler(BaseHTTPRequestHandler):
    """Serves `hub`, which a subclass names."""

    protocol_version = "HTTP/1.1"
    hub = None

    def do_GET(self):
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        if hub.elsewhere and "/resolve/" in self.path:
            status, headers, body = 302, {"Location": hub.elsewhere + self.path}, b""
        else:
            status, headers, body = self.ranged(*hub.reply(self.path))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.send(body, hub.stops.get(self.path.rpartition("/")[2], len(body)))

    do_HEAD = do_GET  # noqa: N815 - http.server's own naming

    def ranged(self, status, headers, body):
        asked = self.headers.get("Range")
        if asked is None or status != 200:
            return status, headers, body
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.hub.ranges.append(start)
        if not self.hub.has_ranges:
            return status, headers, body
        if start >= len(body):
            return 416, {}, b""
        told = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return 206, {**headers, **told}, body[start:]

    def send(self, body, limit):
        self.wfile.write(body[:limit])
        if limit >= len(body):
            return
        if self.hub.is_halting:
            self.hub.halted.set()
            self.hub.go_on.wait()
            with suppress(OSError):  # its client may be gone
                self.wfile.write(body[limit:])
        else:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    state = FakeHub(folder)
    handler = type("Handler", (HubHandler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def serve_hub():
    """Serves the files of a folder as the Hub does."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(served(folder))


@pytest.fixture
def fake_hub(serve_hub, model_folder):
    return serve_hub(model_folder)
