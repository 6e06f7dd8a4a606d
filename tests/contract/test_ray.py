"""A real Ray cluster on loopback: to clients it is the server, and to the router one more remote."""

import http.client
import importlib.util
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openai
import pyarrow.parquet as pq
import pytest

from hybrid_infer import HybridClient

pytestmark = pytest.mark.ray

PATIENCE_SECONDS = 60
KEY = "a-long-secret"
TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "", "He drove away."]
PROMPT = [{"role": "user", "content": "Tell me about low latency."}]
SMALL = {"profile": "tiny", "model": "embeddings/small", "num_cpus": 0.25, "dtype": "float32"}
CALLERS, CALLS = 8, 10
MOST_ROUNDS = 4
_file = Path(__file__).resolve().parents[2] / "scripts" / "_cluster.py"
_spec = importlib.util.spec_from_file_location("_cluster", _file)
_cluster = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_cluster)


@pytest.fixture(scope="module")
def cluster():
    """Two replicas without a key; whatever happens, nothing of Ray is left when the module ends."""
    started = _cluster.ClusterProcess(2)
    try:
        started.url = started.ask("serve", min_replicas=2, max_replicas=2, **SMALL)["url"]
        yield started
    finally:
        assert started.close() == []


@pytest.fixture(scope="module")
def local():
    with HybridClient(profile="tiny", policy="local-only", dtype="float32") as client:
        yield client


@pytest.fixture
def client(cluster):
    with behind(cluster.url) as made:
        yield made


def behind(url, **options):
    remote = {"name": "cluster", "dialect": "openai", "base_url": url}
    return HybridClient(profile="tiny", models={"remotes": [remote]}, dtype="float32", **options)


def ask(url, path, body=None, headers=None):
    """Status, headers and body of one request, as it comes over the wire."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE_SECONDS)
    try:
        method = "GET" if body is None else "POST"
        given = {"content-type": "application/json", **(headers or {})}
        connection.request(method, where.path + path, body, given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def vectors_of(body):
    return np.array([row["embedding"] for row in json.loads(body)["data"]], np.float32)


# The routes --------------------------------------------------------------------------------------


def test_it_answers_what_the_engine_does(cluster, local):
    body = json.dumps({"model": "small", "input": TEXTS})
    status, headers, answer = ask(cluster.url, "/v1/embeddings", body)
    assert status == 200
    assert headers["x-hybrid-infer-backend"] == "local"
    assert len(headers.get_all("x-request-id")) == 1
    np.testing.assert_allclose(vectors_of(answer), local.embed(TEXTS, "small").vectors, atol=1e-5)


@pytest.mark.parametrize(
    "path", ["/health", "/status", "/metrics", "/v1/models", "/openapi.json", "/"]
)
def test_every_path_of_the_server_is_there(cluster, path):
    assert ask(cluster.url, path)[0] == 200


def one_text(**fields):
    return json.dumps({"model": "small", "input": "a text", **fields})


@pytest.mark.parametrize(
    ("expected", "body", "headers"),
    [
        (400, one_text(nonsense=1), {}),
        (400, one_text(input=[[1, 2]]), {}),
        (400, "not JSON", {}),
        (400, one_text(dimensions=7), {}),
        (404, one_text(model="nowhere"), {}),
        (413, one_text(input="x" * 2_000_001), {}),
        (415, one_text(), {"content-type": "text/plain"}),
        (403, one_text(), {"host": "elsewhere.example"}),
        (403, one_text(), {"origin": "http://elsewhere.example"}),
    ],
)
def test_it_refuses_what_the_server_refuses_with_the_same_words(
    cluster, server, expected, body, headers
):
    status, _, told = ask(cluster.url, "/v1/embeddings", body, headers)
    assert status == expected
    assert (status, told) == ask(server.url, "/v1/embeddings", body, headers)[::2]


def test_chat_and_its_stream_come_through_the_proxy(cluster):
    asked = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="unused", max_retries=0)
    options = {"model": "small", "messages": PROMPT, "max_tokens": 8, "temperature": 0}
    with asked:
        whole = asked.chat.completions.create(**options).choices[0].message.content
        pieces = asked.chat.completions.create(**options, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole


def test_a_client_that_leaves_stops_the_work(cluster):
    """The replica, not the proxy, counts what is in progress; both replicas must say none."""
    body = json.dumps({"model": "small", "messages": PROMPT, "max_tokens": 3000, "stream": True})
    where = urlsplit(cluster.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    answer.close()
    connection.close()
    idle = 0
    for _ in range(2000):
        status = json.loads(ask(cluster.url, "/status")[2])
        idle = idle + 1 if status["requests_in_progress"] == 0 else 0
        if idle == 20:  # of two replicas, asked in no order
            return
    pytest.fail("the work goes on")


# One more remote ---------------------------------------------------------------------------------


def test_the_router_takes_it_for_a_remote(client, local):
    result = client.embed(TEXTS, "small")
    assert (result.route.backend, result.route.provider) == ("remote", "cluster")
    np.testing.assert_allclose(result.vectors, local.embed(TEXTS, "small").vectors, atol=1e-5)
    assert client.verify("embeddings/small").ok


def test_a_replica_that_is_killed_under_load_loses_no_call(cluster, client, local):
    texts = [f"text number {number} " + "of some length " * 5 for number in range(32)]
    expected = local.embed(texts, "small").vectors
    client.warm("embeddings/small")

    def routes_of_a_round():
        done, half_way = count(1), threading.Event()

        def call(_):
            result = client.embed(texts, "small", deadline=PATIENCE_SECONDS)
            if next(done) == CALLERS * CALLS // 3:
                half_way.set()
            np.testing.assert_allclose(result.vectors, expected, atol=1e-5)
            return result.route

        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(call, number) for number in range(CALLERS * CALLS)]
            assert half_way.wait(PATIENCE_SECONDS)
            cluster.kill_replica()
            routes = [made.result() for made in calls]
        assert len(routes) == CALLERS * CALLS
        return routes

    rounds = [routes_of_a_round()]
    # The replica may have been between two requests when it was killed.
    while not any(map(met_the_kill, rounds[-1])) and len(rounds) < MOST_ROUNDS:
        rounds.append(routes_of_a_round())
    first = rounds[0]
    assert any(route.backend == "remote" for route in first[-CALLERS:] + first[:CALLERS])
    assert any(map(met_the_kill, rounds[-1]))


def met_the_kill(route):
    return len(route.attempts) > 1 or route.backend == "local"


def test_behind_haproxy_it_asks_for_a_key_and_when_it_is_gone_the_engine_here_answers(local):
    variables = {
        "HYBRID_INFER_SERVER_KEY": KEY,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    cluster = _cluster.ClusterProcess(2, variables)
    try:
        url = cluster.ask("serve", prefix="/embeddings", **SMALL)["url"]
        assert ask(url, "/v1/embeddings", one_text())[0] == 401
        answer = ask(url, "/v1/embeddings", one_text(), {"authorization": f"Bearer {KEY}"})
        assert answer[0] == 200
        assert ask(url, "/v1/embeddings", one_text(), {"authorization": "Bearer x"})[0] == 401
        with behind(url, api_key=KEY) as client:
            assert client.embed(TEXTS, "small").route.backend == "remote"
            cluster.close()
            result = client.embed(TEXTS, "small")
            assert result.route.backend == "local"
            np.testing.assert_allclose(
                result.vectors, local.embed(TEXTS, "small").vectors, atol=1e-5
            )
    finally:
        left = cluster.close()
    assert left == []


# Datasets ----------------------------------------------------------------------------------------


def job(cluster, rows, output, **options):
    given = {"model": "small", "profile": "tiny", "dtype": "float32", "actors": 2, "num_cpus": 0.25}
    cluster.ask("embed", rows=rows, blocks=4, output=str(output), batch_rows=64, **given, **options)


def test_a_job_over_two_actors_gives_the_same_vectors(cluster, local, tmp_path):
    rows = [{"id": number, "text": f"text {number} " * (number % 9)} for number in range(400)]
    job(cluster, rows, tmp_path / "vectors")
    table = pq.read_table(tmp_path / "vectors").sort_by("id")
    assert table.column("text").to_pylist() == [row["text"] for row in rows]
    vectors = np.stack(table.column("embedding").to_numpy())
    expected = local.embed([row["text"] for row in rows], "small").vectors
    assert (vectors.dtype, vectors.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_bad_row_ends_a_job_with_what_is_wrong(cluster, tmp_path):
    rows = [{"id": number, "text": None if number == 77 else "good"} for number in range(100)]
    with pytest.raises(RuntimeError, match=r"its text must be a str.*\{'id': 77\}"):
        job(cluster, rows, tmp_path / "vectors")
