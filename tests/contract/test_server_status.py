"""``hybrid-infer status`` against a running server."""

import json
import subprocess
import sys

import pytest

PROGRAM = [sys.executable, "-m", "hybrid_infer", "status"]
KEY = "a-key-of-the-server"


@pytest.fixture(scope="module")
def keyed(start_server):
    return start_server("--profile", "tiny", HYBRID_INFER_SERVER_KEY=KEY)


def status(*words):
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False)


def test_json_once(keyed):
    done = status("--url", keyed.url, "--api-key", KEY, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["name"] for row in found["models"]} >= {"chat/small", "embeddings/small"}


def test_a_pipe_gets_the_tables_once(keyed):
    done = status("--url", keyed.url, "--api-key", KEY)
    assert done.returncode == 0, done.stderr
    assert "embeddings/small" in done.stdout
    assert "remote-first" in done.stdout


def test_a_wrong_key_and_a_wrong_place(keyed, fake_remote_factory):
    done = status("--url", keyed.url, "--api-key", "wrong")
    assert done.returncode == 3
    assert "HYBRID_INFER_SERVER_KEY" in done.stderr
    done = status("--url", "ftp://x")
    assert done.returncode == 2
    done = status("--url", fake_remote_factory(answers="echo").url)
    assert done.returncode == 1
    done = status("--url", "http://127.0.0.1:9")  # where nobody listens
    assert done.returncode == 3
    assert "no server answers" in done.stderr
