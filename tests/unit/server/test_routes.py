"""What needs a look inside the server's process."""

import json
import logging
import socket
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer

from hybrid_infer import DeadlineExceededError, LocalEngineError, OverloadedError, ServerSettings
from hybrid_infer.local.generation.job import ChatJob
from hybrid_infer.registry import load_registry
from hybrid_infer.server import health
from hybrid_infer.server.token_ids import TokenTexts
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.testing import Reply

PATIENCE_SECONDS = 60
LONG_CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 99, "temperature": 0}


def ask_for_chat(client, body):
    """Send a request's head, and its body once the server waits for it."""
    text = json.dumps(body).encode()
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
    )
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(text)


@pytest.mark.parametrize(("stream", "most_held"), [(True, 65_536), (False, 65_536), (False, 1)])
def test_a_client_that_leaves_stops_the_local_copy_within_a_step(
    server, monkeypatch, stream, most_held
):
    # Above that the connection is not read from, until somebody takes the body.
    monkeypatch.setattr("uvicorn.protocols.http.httptools_impl.HIGH_WATER_LIMIT", most_held)
    messages = [{"role": "user", "content": "Tell me about low latency."}]
    server.ask("POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    taken, has_left, began, take = [], threading.Event(), threading.Event(), ChatJob.take

    def watched(job, token):
        if len(taken) == 3:
            began.set()
            assert has_left.wait(PATIENCE_SECONDS)
            assert ended.wait(PATIENCE_SECONDS)
        taken.append(token)
        return take(job, token)

    ended = threading.Event()
    original = server.service.admission._measured
    monkeypatch.setattr(
        server.service.admission,
        "_measured",
        lambda seconds: (original(seconds), ended.set()),
    )
    monkeypatch.setattr(ChatJob, "take", watched)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as client:
        body = {"messages": messages, "max_tokens": 200, "temperature": 0, "stream": stream}
        ask_for_chat(client, body)
        assert began.wait(PATIENCE_SECONDS)
    has_left.set()
    assert ended.wait(PATIENCE_SECONDS)  # the request is over while the model is still in its step
    assert server.service.admission.requests == 0
    monkeypatch.undo()
    server.ask("POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert len(taken) <= 5


def test_too_much_at_once_is_429_with_a_wait(start):
    server = start(ServerSettings(max_requests=1))
    with server.service.admission.request():
        status, headers, body = server.ask("POST", "/v1/embeddings", {"input": "a"})
        assert (status, body["error"]["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        assert server.ask("GET", "/health")[0] == 200
    server.service.admission.texts = 8192
    assert server.ask("POST", "/embed", {"inputs": "a"})[0] == 429
    server.service.admission.texts = 0
    assert server.ask("POST", "/embed", {"inputs": "a"})[0] == 200


def reply_head(replies):
    """The first line of the next reply, whose body is read as well: it may come apart."""
    head = replies.readline()
    size = 0
    while line := replies.readline().strip():
        if line.lower().startswith(b"content-length:"):
            size = int(line.partition(b":")[2])
    replies.read(size)
    return head


def test_one_connection_too_many_is_429(start):
    server = start(ServerSettings(max_connections=1))
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as first:
        replies = first.makefile("rb")
        first.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in reply_head(replies)
        status, headers, body = server.ask("GET", "/health")
        assert (status, body["error"]["code"]) == (429, "overloaded")
        assert headers["retry-after"] == "1"
        first.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in reply_head(replies)


def test_health_computes_when_unsure_and_tells_what_is_broken(start, monkeypatch):
    server = start()
    assert server.ask("GET", "/health")[0] == 200, "nothing is loaded, nothing is broken"
    assert server.ask("POST", "/embed", {"inputs": "a"})[0] == 200
    probes = []

    async def broken(*arguments, **options):
        probes.append(arguments)
        raise LocalEngineError("the device is lost")

    monkeypatch.setattr(server.client, "embed", broken)
    assert server.ask("GET", "/health")[0] == 200, "a call was served a moment ago"
    server.statistics.last_success_at = None
    server.service.health._probed_at = None
    status, headers, body = server.ask("GET", "/health")
    assert (status, body["error"]["code"]) == (503, "unhealthy")
    assert "the device is lost" in body["error"]["message"]
    assert "retry-after" in headers
    assert probes == [("health", "embeddings/default")]


class TestHealthAtWork:
    """What is asked of a local copy that is busy waits; that alone makes it no bad one."""

    @pytest.fixture
    def server(self, start):
        made = start()
        for _ in range(2):  # behind the second answer the first one's step is over
            made.ask("POST", "/v1/chat/completions", {**LONG_CHAT, "max_tokens": 1})
        return made

    @pytest.fixture
    def stopped(self, server, monkeypatch):
        """Lets the copy compute some tokens, and then none until the test ends."""
        reached, goes_on, taken, take = threading.Event(), threading.Event(), [], ChatJob.take

        def held(job, token):
            taken.append(token)
            if len(taken) == 4:
                reached.set()
                assert goes_on.wait(PATIENCE_SECONDS)
            return take(job, token)

        monkeypatch.setattr(ChatJob, "take", held)
        asking = threading.Thread(
            target=server.ask, args=("POST", "/v1/chat/completions", LONG_CHAT)
        )
        asking.start()
        assert reached.wait(PATIENCE_SECONDS)
        server.statistics.last_success_at = None
        yield
        goes_on.set()
        asking.join(PATIENCE_SECONDS)

    @pytest.mark.usefixtures("stopped")
    def test_a_copy_that_computes_is_healthy_without_a_probe(self, server, monkeypatch):
        async def broken(*_, **__):
            raise LocalEngineError("nobody should ask")

        monkeypatch.setattr(server.client, "chat_completion", broken)
        assert server.ask("GET", "/health")[0] == 200

    @pytest.mark.usefixtures("stopped")
    def test_one_that_has_not_for_long_is_not(self, server, monkeypatch):
        monkeypatch.setattr(health, "SURE_SECONDS", 0.0)
        monkeypatch.setattr(health, "PROBE_SECONDS", 0.2)
        status, _, body = server.ask("GET", "/health")
        assert status == 503
        assert "did not finish within 0.2 s" in body["error"]["message"]

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (DeadlineExceededError("it waited"), 200),
            (OverloadedError("the queue is full"), 200),
            (LocalEngineError("the device is lost"), 503),
        ],
    )
    def test_a_probe_too_many_says_nothing_of_a_copy_that_computes(
        self, server, monkeypatch, error, status
    ):
        async def refused(*_, **__):
            raise error

        server.statistics.last_success_at = None
        monkeypatch.setattr(server.client, "chat_completion", refused)
        assert server.ask("GET", "/health")[0] == status


def test_a_defect_is_500_without_details(start, monkeypatch, caplog):
    server = start()

    async def broken(*_, **__):
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr(server.client, "embed", broken)
    with caplog.at_level(logging.ERROR):
        status, headers, body = server.ask("POST", "/embed", {"inputs": "a"})
        server.close()  # the trace is logged behind the answer
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(body)
    assert headers["x-request-id"]
    assert "a secret detail" in caplog.text


def test_status_tells_where_each_alias_is(server):
    server.ask("POST", "/v1/embeddings", {"input": "a", "model": "small"})
    _, _, body = server.ask("GET", "/status")
    states = {row["name"]: row["local"] for row in body["models"]}
    assert states["embeddings/small"] == "warm"
    assert body["policy"] == "local-only"
    assert body["recent"]["local_calls"] >= 1


def test_metrics_are_the_observer_s_and_the_queue_s(start, fake_remote_factory):
    remote = fake_remote_factory(answers="tiny")
    remote.enqueue(Reply(status=429, headers={"Retry-After": "600"}))
    server = start(ServerSettings(max_requests=2), policy="remote-first", base_url=remote.url)
    assert server.ask("POST", "/v1/embeddings", {"input": "a", "model": "small"})[0] == 200
    assert server.ask("POST", "/embed", {"inputs": "a"})[0] == 200
    with server.service.admission.request(), server.service.admission.waiting(7):
        with server.service.admission.request():
            assert server.ask("POST", "/embed", {"inputs": "a"})[0] == 429
        status, headers, text = server.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples[sample.name.removeprefix("hybrid_infer_"), labels] = sample.value

    def told(name, **labels):
        return samples[name, tuple(sorted(labels.items()))]

    call = {"operation": "embeddings", "model": "embeddings/small"}
    pair = {"model": "embeddings/small", "backend": "huggingface"}
    assert told("requests_total", **call, backend="local", outcome="ok") == 1
    assert told("request_duration_seconds_count", **call, backend="local") == 1
    limited = {"backend": "huggingface", "outcome": "rate_limited"}
    assert told("attempts_total", **call, **limited) == 1
    assert told("attempts_total", **call, backend="local", outcome="ok") == 1
    fell = {"from_backend": "huggingface", "to_backend": "local", "reason": "rate_limited"}
    assert told("fallbacks_total", model="embeddings/small", **fell) == 1
    assert told("breaker_state", **pair) == 1
    assert told("queue_depth", model="tiny/all-MiniLM-L6-v2") == 0
    assert told("server_requests_in_progress") == 1
    assert told("server_texts_waiting") == 7
    assert told("server_refused_total") == 1


def test_a_collector_may_ask_for_openmetrics(server):
    asked = {"accept": "application/openmetrics-text; version=1.0.0"}
    _, headers, text = server.ask("GET", "/metrics", headers=asked)
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ("Application/JSON; Charset=UTF-8", 200),
        ("APPLICATION/Octet-Stream", 200),
        ("Text/XML", 415),
    ],
)
def test_media_types_are_no_matter_of_case(server, declared, status):
    headers = {"content-type": declared}
    assert server.ask("POST", "/embed", {"inputs": "a"}, headers)[0] == status


@pytest.mark.parametrize("version", ['"1.0.0"', "abc", "", "1.0.x", "1", "1.0.0.0.0", "9" * 5000])
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
def test_no_version_of_a_format_is_a_fault(server, kind, version):
    asked = {"accept": f"{kind}; version={version}; escaping=what"}
    status, _, text = server.ask("GET", "/metrics", headers=asked)
    assert (status, "hybrid_infer_server_texts_waiting" in text) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("HEAD", "/events", None, 405),
        ("PUT", "/v1/embeddings", {"input": "a"}, 405),
        ("GET", "/v1/embeddings/", None, 404),
        ("POST", "/models//pipeline/feature-extraction", {"inputs": "a"}, 404),
        (
            "POST",
            "/models//v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}]},
            404,
        ),
    ],
)
def test_what_is_not_there(server, method, path, body, status):
    answered, headers, document = server.ask(method, path, body)
    assert answered == status
    assert headers["x-request-id"]
    if method != "HEAD":
        assert document["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/small", "/", "/metrics"])
def test_a_head_alone_is_the_head_of_what_get_gives(server, path):
    status, headers, _ = server.ask("GET", path)
    assert status == 200
    status, alone, document = server.ask("HEAD", path)
    assert (status, document) == (200, "")
    assert alone["content-type"] == headers["content-type"]
    assert int(alone["content-length"]) > 0


def test_prompts_and_keys_are_in_no_log(start, caplog):
    server = start(key="a-key-of-mine")
    with caplog.at_level(logging.DEBUG):
        server.ask("POST", "/embed", {"inputs": "a private text"})
    assert "private" not in caplog.text
    assert "a-key-of-mine" not in caplog.text


def test_vectors_are_the_same_whichever_way_they_are_written(server):
    body = {"model": "small", "input": ["a", "b"]}
    named = {"x-request-id": "mine"}
    status, at_once, document = server.ask("POST", "/v1/embeddings", body, named)
    # An answer that ends its connection is written by uvicorn, the other one is not.
    named["Connection"] = "close"
    other_status, by_uvicorn, other = server.ask("POST", "/v1/embeddings", body, named)
    assert (status, document) == (other_status, other) == (200, document)
    assert by_uvicorn["connection"] == "close"
    del by_uvicorn["connection"], by_uvicorn["date"], at_once["date"]
    assert sorted(at_once.items()) == sorted(by_uvicorn.items())
    assert at_once["x-request-id"] == "mine"
    assert at_once["x-hybrid-infer-backend"] == "local"


def test_token_ids_are_taken_where_they_are_the_models_own(start):
    registry = load_registry(profile="tiny")
    path = find_snapshot(registry.resolve("embeddings", "small")) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    server = start(token_texts=TokenTexts(registry))

    def embedded(given):
        return server.ask("POST", "/v1/embeddings", {"model": "small", "input": given})

    text = "The weather is lovely."
    _, _, expected = embedded(text)
    ids = tokenizer.encode(text).ids
    bare = tokenizer.encode(text, add_special_tokens=False).ids
    for given in (ids, bare, [ids]):
        assert embedded(given)[2] == expected
    assert len(embedded([ids, bare])[2]["data"]) == 2
    status, _, document = embedded([[1]] * 2049)
    assert (status, document["error"]["message"]) == (
        400,
        "there are 2,049 texts; 2,048 are allowed",
    )
    wrong = [ids[1], ids[0]]
    at_fault = {"input": ([-1], [10**12], wrong), "input[1]": ([ids, wrong, ids],)}
    for param, examples in at_fault.items():
        for given in examples:
            status, _, document = embedded(given)
            assert (status, document["error"]["param"]) == (400, param)
            assert "own tokenizer" in document["error"]["message"]
    for text in (
        "a \U0001f9ff in [MASK] and [SEP] there",
        "[UNK]",
        "[CLS] twice",
        "once more [SEP]",
    ):
        whole, bare = tokenizer.encode(text), tokenizer.encode(text, add_special_tokens=False)
        assert whole.ids[1:-1] == bare.ids
        _, _, expected = embedded(text)
        assert embedded(whole.ids)[2] == expected
        is_half_a_template = text.startswith("[CLS]") or text.endswith("[SEP]")
        assert embedded(bare.ids)[0] == (400 if is_half_a_template else 200)
