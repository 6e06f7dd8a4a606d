"""The plugin's fixtures as pytest itself finds them, through the entry point."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import httpx2
import pytest

import hybrid_infer.testing

HEAVY = ("torch", "numpy", "transformers", "httpx2", "pydantic", "yaml", "asyncio")


def test_the_entry_point_is_declared():
    (found,) = [one for one in entry_points(group="pytest11") if one.name == "hybrid_infer"]
    assert found.value == "hybrid_infer.testing.fixtures"


def test_fake_remote_runs_and_is_fresh(fake_remote):
    assert fake_remote.ledger == []
    with httpx2.Client(trust_env=False) as client:
        assert client.get(f"{fake_remote.url}/health").status_code == 200
    assert len(fake_remote.ledger) == 1


def test_fake_remote_answers_as_the_tiny_models_do(fake_remote, hybrid_infer_tiny_answers):
    (expected,) = hybrid_infer_tiny_answers.embed("small", ["a"], normalize=True, truncate=True)
    with httpx2.Client(trust_env=False, timeout=60.0) as client:
        (row,) = client.post(f"{fake_remote.url}/embed", json={"inputs": "a"}).json()
    assert row == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_factory_makes_several(fake_remote_factory):
    first, second = fake_remote_factory("echo"), fake_remote_factory("echo", api_key="hf_x")
    assert first.port != second.port
    with httpx2.Client(trust_env=False) as client:
        assert client.get(f"{first.url}/v1/models").status_code == 200
        assert client.get(f"{second.url}/v1/models").status_code == 401


def test_every_export_is_there():
    for name in hybrid_infer.testing.__all__:
        assert getattr(hybrid_infer.testing, name).__name__
        assert name in dir(hybrid_infer.testing)
    with pytest.raises(AttributeError):
        _ = hybrid_infer.testing.Nonsense


def loaded_after(statement):
    code = f"import sys, json; {statement}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    return set(json.loads(run.stdout))


def test_importing_is_light():
    assert loaded_after("import hybrid_infer.testing") == set()
    # pytest itself is in every run that imports the plugin
    with_pytest = loaded_after("import pytest")
    assert loaded_after("import hybrid_infer.testing.fixtures") <= with_pytest


def test_echo_answers_need_no_torch():
    statement = (
        "from hybrid_infer.testing import FakeRemote; import http.client; r = FakeRemote('echo').start();"
        "c = http.client.HTTPConnection('127.0.0.1', r.port);"
        "c.request('POST', '/embed', '{\"inputs\":\"a\"}'); assert c.getresponse().status == 200; r.close()"
    )
    assert not loaded_after(statement) & {"torch", "transformers"}
