"""One canary key through everything that can be read afterwards: it is found nowhere.

The remote is naive or hostile: each of its failures repeats the key that it was sent, in the body
and in a header.
"""

import asyncio
import contextlib
import http.client
import json
import logging
import pickle
import signal
import traceback
from pathlib import Path

import pytest

import hybrid_infer
from hybrid_infer import AsyncHybridClient, HybridClient, HybridInferError
from hybrid_infer.observers.logs import LogObserver
from hybrid_infer.testing import FakeRemote, Reply

PACKAGE = str(Path(hybrid_infer.__file__).parent)
CANARY = "hf_cAnArYcAnArYcAnArYcAnArY12345"
SERVER_CANARY = "sk-SeRvErCaNaRySeRvErCaNaRy123"
HINT = "anarycanary"
STATUSES = (400, 401, 402, 403, 404, 408, 413, 422, 424, 429, 500, 502, 503, 504, 301)
SECONDS = 0.5  # too few for a second try after a wait
SAID = f"the key Bearer {CANARY} was refused; Authorization: {CANARY}"


def failures():
    """Replies that repeat the key, one of each kind."""
    headers = {
        "X-Error-Message": SAID,
        "Location": f"http://{CANARY}.invalid/",
        "Retry-After": "99",
    }
    for status in STATUSES:
        yield {"status": status, "headers": headers, "json": {"error": SAID}}
        yield {"status": status, "headers": headers, "json": {"error": {"message": SAID}}}
        yield {"status": status, "headers": headers, "body": SAID}
    yield {"status": 200, "headers": headers, "body": f"<html>{SAID}</html>"}
    yield {"status": 200, "headers": headers, "json": {"error": SAID}}
    yield {"status": 200, "headers": headers, "json": {SAID: [[SAID]]}}
    yield {"status": 200, "headers": headers, "json": [[SAID, 1.0]]}


def frames_of(error):
    """The variables of the library's own frames; the test's hold the key, of course."""
    trace = error.__traceback__
    while trace is not None:
        code, held = trace.tb_frame.f_code, trace.tb_frame.f_locals
        if code.co_filename.startswith(PACKAGE) and "/testing/" not in code.co_filename:
            yield from (f"{code.co_qualname}: {name} = {value!r}" for name, value in held.items())
        trace = trace.tb_next


def texts_of(error):
    """All that can be made of an error, its context and causes included."""
    yield from (str(error), repr(error), repr(vars(error)), *getattr(error, "__notes__", ()))
    yield "".join(traceback.format_exception(error))
    if isinstance(error, HybridInferError):
        yield pickle.dumps(error).decode("latin-1")
        yield repr([repr(attempt) for attempt in error.attempts])
    for inner in (error.__cause__, error.__context__, *getattr(error, "causes", ())):
        if inner is not None:
            yield from texts_of(inner)


class Haul:
    """Every text that was seen, and where."""

    def __init__(self):
        self.texts = []

    def add(self, *texts):
        self.texts.extend(str(text) for text in texts)

    def hits(self):
        return [text for text in self.texts if HINT in text.lower() or CANARY in text]


@pytest.fixture
def haul(caplog):
    """What is logged by anybody, at any level, is part of it."""
    caplog.set_level(logging.DEBUG)
    collected = Haul()
    yield collected
    collected.add(caplog.text, *(repr(vars(record)) for record in caplog.records))
    assert len(collected.texts) > 10
    assert collected.hits() == []


@pytest.fixture
def remote():
    with FakeRemote("echo") as fake:
        yield fake


def options(remote, haul, **more):
    logs = LogObserver()

    def observe(event):
        logs(event)
        haul.add(repr(event), pickle.dumps(event).decode("latin-1"))

    return {
        "base_url": remote.url,
        "api_key": CANARY,
        "on_event": observe,
        "profile": "tiny",
    } | more


def calls(client):
    yield lambda: client.embed("a text", model="small", deadline=SECONDS)
    yield lambda: client.chat_completion("Hello", model="small", max_tokens=3, deadline=SECONDS)
    yield lambda: list(
        client.chat_completion("Hello", model="small", max_tokens=3, stream=True, deadline=SECONDS)
    )


def test_no_failure_of_a_remote_repeats_the_key(remote, haul, capfd):
    errors = 0
    with HybridClient(policy="remote-only", **options(remote, haul)) as client:
        haul.add(repr(client), repr(vars(client)), repr(client._session.options))
        for reply in failures():
            for call in calls(client):
                remote.reset()
                client.reset()
                remote.enqueue(Reply(**reply), 3)
                try:
                    haul.add(repr(call()))
                except HybridInferError as error:
                    errors += 1
                    haul.add(*texts_of(error))
                haul.add(json.dumps(client.status(), default=repr))
        with pytest.raises(Exception, match="pickle"):
            pickle.dumps(client)
        assert (
            remote.ledger[-1].headers["authorization"] == f"Bearer {CANARY}"
        )  # it did go where it belongs
    printed = capfd.readouterr()
    haul.add(printed.out, printed.err)
    assert errors > 100
    with capfd.disabled():
        print(f"canary key: {len(haul.texts)} texts of {errors} errors, {len(haul.hits())} hits")


def test_no_variable_of_a_traceback_holds_it(remote, haul):
    """What a remote sent lies in some, so here it does not send the key."""
    with HybridClient(policy="remote-only", **options(remote, haul)) as client:
        for status in (*STATUSES, 200):
            for call in calls(client):
                remote.reset()
                client.reset()
                remote.enqueue(Reply(status=status, json={"error": "no"}), 3)
                with pytest.raises(HybridInferError) as caught:
                    call()
                haul.add(*frames_of(caught.value))
        remote.go_down()
        client.reset()
        with pytest.raises(HybridInferError) as caught:
            client.embed("a text", model="small", deadline=SECONDS)
        haul.add(*frames_of(caught.value))


def test_no_awaited_failure_repeats_it_either(remote, haul):
    async def run():
        async with AsyncHybridClient(policy="remote-only", **options(remote, haul)) as client:
            haul.add(repr(client))
            for reply in failures():
                remote.reset()
                client.reset()
                remote.enqueue(Reply(**reply), 3)
                try:
                    haul.add(repr(await client.embed("a text", model="small", deadline=SECONDS)))
                except HybridInferError as error:
                    haul.add(*texts_of(error))

    asyncio.run(run(), debug=True)


def test_a_fallbacks_result_does_not_hold_it(remote, haul):
    with HybridClient(cache=10, **options(remote, haul)) as client:
        remote.enqueue(Reply(status=401, json={"error": SAID}), 9)
        result = client.embed("a text", model="small", deadline=60)
        assert result.route.backend == "local"
        haul.add(repr(result.route), repr(vars(result)) if hasattr(result, "__dict__") else "")
        haul.add(pickle.dumps(result.route).decode("latin-1"))
        haul.add(json.dumps(client.status(), default=repr), repr(client.list_models()))


def test_metrics_and_spans_do_not_hold_it(remote, haul):
    prometheus = pytest.importorskip("prometheus_client")
    from hybrid_infer.observers.prometheus import PrometheusObserver

    registry = prometheus.CollectorRegistry()
    observer = PrometheusObserver(registry)
    given = options(remote, haul, on_event=observer)
    with HybridClient(policy="remote-only", **given) as client:
        for reply in failures():
            remote.reset()
            client.reset()
            remote.enqueue(Reply(**reply), 3)
            try:
                client.embed("a text", model="small", deadline=SECONDS)
            except HybridInferError as error:
                haul.add(*texts_of(error))
    haul.add(prometheus.generate_latest(registry).decode())


def test_a_server_tells_neither_its_own_key_nor_the_remotes(start_server, remote):
    server = start_server(
        "--profile", "tiny", "--policy", "remote-only", "--base-url", remote.url,
        HF_TOKEN=CANARY, HYBRID_INFER_SERVER_KEY=SERVER_CANARY,
    )  # fmt: skip
    seen = []

    def ask(method, path, body=None, key=SERVER_CANARY):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        seen.append(f"{answer.status} {answer.getheaders()} {answer.read()!r}")
        connection.close()

    for path in ("/", "/status", "/metrics", "/docs", "/openapi.json", "/healthz", "/v1/models"):
        ask("GET", path)
        ask("GET", path, key=SERVER_CANARY + "x")
    for reply in failures():
        remote.reset()
        remote.enqueue(Reply(**reply), 3)
        ask("POST", "/v1/embeddings", {"input": "a text", "model": "small"})
    ask("POST", "/v1/embeddings", {"input": SERVER_CANARY, "model": 7})
    ask("GET", "/status")
    ask("GET", "/metrics")
    server.signal(signal.SIGTERM)
    seen += server.process.communicate(timeout=60)
    assert len(seen) > 40
    assert [text for text in seen if CANARY in text or SERVER_CANARY in text] == []


@pytest.mark.parametrize(
    "words", [["doctor", "--no-network"], ["models", "--json"], ["status", "http://127.0.0.1:9"]]
)
def test_no_command_prints_it(words, monkeypatch, capsys):
    from hybrid_infer.cli import main

    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HYBRID_INFER_PROFILE", "tiny")
    with contextlib.suppress(SystemExit):
        main(words)
    printed = capsys.readouterr()
    assert printed.out + printed.err
    assert HINT not in (printed.out + printed.err).lower()
