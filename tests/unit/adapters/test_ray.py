"""The Ray adapter's parts that need no cluster."""

import asyncio
import json
import pickle

import pyarrow as pa
import pytest

from hybrid_infer.adapters.ray import ServeArguments, app
from hybrid_infer.adapters.ray.datasets import Embedder
from hybrid_infer.adapters.ray.requests import Proxied
from hybrid_infer.adapters.ray.serving import Replica, checked_options
from hybrid_infer.adapters.ray.shares import gpus_for, gpus_of, within_share
from hybrid_infer.errors import (
    BulkDataError,
    ConfigError,
    InvalidRequestError,
    LocalEngineError,
    ModelNotDownloadedError,
)
from hybrid_infer.local.embedding.runner import BatchRunner
from hybrid_infer.registry import load_registry
from hybrid_infer.settings import MemorySettings, Settings

GIB = 2**30
LOCAL = {"profile": "tiny", "policy": "local-only"}


def replica(model="embeddings/small"):
    return Replica(model, LOCAL)


# What `serve run` is told ------------------------------------------------------------------------


def test_a_command_line_holds_words_only():
    words = {"model": "embeddings/small", "num_cpus": "0.5", "max_replicas": "8"}
    arguments = ServeArguments.model_validate({**words, "allowed_hosts": "a.example,b.example"})
    assert (arguments.num_cpus, arguments.max_replicas) == (0.5, 8)
    assert arguments.allowed_hosts == ("a.example", "b.example")


def test_the_environment_speaks_where_nothing_is_given(monkeypatch):
    assert ServeArguments().client_arguments()["policy"] == "local-only"
    monkeypatch.setenv("HYBRID_INFER_POLICY", "remote-first")
    monkeypatch.setenv("HYBRID_INFER_PROFILE", "tiny")
    monkeypatch.setenv("HYBRID_INFER_DEVICE", "cuda:3")
    made = ServeArguments().client_arguments()
    assert made == {"profile": "tiny", "policy": "remote-first", "device": "cuda", "dtype": "auto"}
    assert ServeArguments(policy="local-first").client_arguments()["policy"] == "local-first"
    monkeypatch.setenv("HYBRID_INFER_POLICY", "sometimes")
    with pytest.raises(ConfigError, match="HYBRID_INFER_POLICY"):
        ServeArguments().client_arguments()


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "small"},
        {"num_cpus": 0},
        {"device": "cuda:1"},
        {"policy": "never"},
        {"dtype": "int8"},
    ],
)
def test_a_wrong_argument_is_named(wrong):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}: "):
        ServeArguments.checked(**wrong)


def deployment(**given):
    return app(ServeArguments(profile="tiny", **given))._bound_deployment


def test_the_queue_decides_how_many_replicas_there_are():
    made = deployment(model="embeddings/small", max_replicas=4, target_ongoing_requests=3)
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
    assert scaling.target_ongoing_requests == 3
    assert made._deployment_config.backpressure_config.status_code == 429
    assert made.ray_actor_options["num_gpus"] == 0


def test_a_model_that_is_not_there_is_refused_before_anything_is_deployed():
    with pytest.raises(InvalidRequestError, match="names two models"):
        deployment(model="small")
    with pytest.raises(InvalidRequestError):
        deployment(model="embeddings/smal")


def test_the_key_does_not_travel(monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_SERVER_KEY", "a-long-secret")
    made = deployment(model="embeddings/small")
    given = (made.init_args, made.init_kwargs, made.ray_actor_options)
    assert b"a-long-secret" not in pickle.dumps(given)
    assert made.init_kwargs == {"needs_key": True}
    monkeypatch.delenv("HYBRID_INFER_SERVER_KEY")
    with pytest.raises(ConfigError, match="this replica has none"):
        Replica(*made.init_args, **made.init_kwargs)


@pytest.mark.parametrize("name", ["RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_ENABLE_DIRECT_INGRESS"])
def test_an_ingress_that_hides_clients_needs_a_key(name, monkeypatch):
    with pytest.raises(ConfigError, match="HYBRID_INFER_SERVER_KEY"):
        checked_options((), {name: "1"})
    assert checked_options((), {name: "0"}).key is None
    assert checked_options((), {name: "1", "HYBRID_INFER_SERVER_KEY": "a-key"}).key is not None
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError):
        deployment(model="embeddings/small")
    with pytest.raises(ConfigError):
        replica()


# GPUs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needed", "expected"),
    [(1, 0.25), (19 * GIB, 0.25), (21 * GIB, 1 / 3), (40 * GIB, 0.5), (41 * GIB, 1), (80 * GIB, 1)],
)
def test_engines_share_a_gpu_that_has_room_for_them(needed, expected):
    assert gpus_for(needed, 80 * GIB, 4) == expected
    assert gpus_for(needed, 80 * GIB, 1) == 1


def test_a_model_that_is_larger_than_a_gpu_gets_several():
    assert gpus_for(161 * GIB, 80 * GIB, 4) == 3


def test_an_engine_on_a_shared_gpu_takes_its_share():
    settings = Settings()
    assert within_share(settings, 0.25, 80 * GIB).memory.budget_bytes == 20 * GIB
    assert within_share(settings, 1, 80 * GIB) is settings
    assert within_share(settings, 0, 80 * GIB) is settings
    own = Settings(memory=MemorySettings(budget_bytes=GIB))
    assert within_share(own, 0.25, 80 * GIB) is own


def test_a_machine_without_a_gpu_asks_for_one_only_if_it_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = load_registry(profile="tiny").resolve("embeddings", "small")
    assert gpus_of(spec, "auto", "auto", Settings()) == 0
    assert gpus_of(spec, "cpu", "auto", Settings()) == 0
    assert gpus_of(spec, "cuda", "auto", Settings()) == 1


# A replica ---------------------------------------------------------------------------------------


def in_replica(use, model="embeddings/small"):
    async def main():
        made = replica(model)
        try:
            return await use(made, await made.__serve_build_asgi_app__())
        finally:
            await made._gate.service.client.close()

    return asyncio.run(main())


def test_a_replica_is_warm_before_it_takes_requests():
    async def use(made, _):
        rows = made._gate.service.client.list_models()
        await made.check_health()
        return {row["name"]: row["local"] for row in rows}

    states = in_replica(use)
    assert states["embeddings/small"] == "warm"
    assert states["embeddings/default"] == "cold"


def test_an_engine_that_does_not_compute_is_an_unhealthy_replica(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the device is gone")

    async def use(made, _):
        monkeypatch.setattr(BatchRunner, "run", broken)
        with pytest.raises(LocalEngineError, match="embeddings/small"):
            await made.check_health()

    in_replica(use)


def test_a_model_that_is_not_downloaded_keeps_a_replica_from_starting(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    async def main():
        made = Replica("embeddings/small", {"policy": "local-only"})
        with pytest.raises(ModelNotDownloadedError):
            await made.__serve_build_asgi_app__()
        await made._gate.service.client.close()

    asyncio.run(main())


def answer(application, client, headers=()):
    scope = {
        "type": "http", "method": "GET", "path": "/health", "root_path": "", "query_string": b"",
        "scheme": "http", "headers": [(b"host", b"127.0.0.1"), *headers], "client": client,
    }  # fmt: skip
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    return application(scope, receive, send), sent


@pytest.mark.parametrize(
    ("client", "has_key", "status"),
    [
        (("127.0.0.1", 1), False, 200),
        (("::1", 1), False, 200),
        (("10.0.0.7", 1), False, 403),
        (None, False, 403),
        (("10.0.0.7", 1), True, 200),
    ],
)
def test_without_a_key_only_this_machine_is_answered(client, has_key, status):
    async def use(made, _):
        proxied = Proxied(made._gate, has_key=has_key)
        call, sent = answer(proxied, client, [(b"x-request-id", b"one")])
        await call
        return sent

    start, body = in_replica(use)
    assert start["status"] == status
    assert b"x-request-id" not in dict(start["headers"])  # the proxy adds it
    if status == 403:
        assert "HYBRID_INFER_SERVER_KEY" in json.loads(body["body"])["error"]["message"]


# An actor of a dataset ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder():
    made = Embedder("text", {"model": "small"}, LOCAL)
    yield made
    made._client.close()


def test_a_batch_keeps_its_columns(embedder):
    table = embedder(pa.table({"id": [3, 4], "text": ["one", "two"]}))
    assert table.column_names == ["id", "text", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert len(embedder(pa.table({"text": pa.array([], pa.string())}))) == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [3, 4], "text": ["one", None]}, "its text must be a str.*{'id': 4}"),
        ({"text": [1, 2]}, "its text must be a str"),
        ({"words": ["one"]}, "no column 'text', but words"),
        ({"text": ["one"], "embedding": [1]}, "a column 'embedding' already"),
    ],
)
def test_a_bad_row_is_known_by_its_other_columns(embedder, columns, message):
    with pytest.raises(BulkDataError, match=message):
        embedder(pa.table(columns))
