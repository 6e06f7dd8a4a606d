import sys

import pytest


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - refused
def test_a_public_address_without_a_key_is_refused_before_anything_opens(run, host):
    done = run("serve", "--host", host, "--port", 0)
    assert done.code == 2
    assert "HYBRID_INFER_SERVER_KEY" in done.err


def test_a_missing_extra_names_the_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "hybrid_infer.server.running", None)
    done = run("serve", "--port", 0)
    assert done.code == 3
    assert 'pip install "hybrid-infer[server]"' in done.err


def test_a_port_that_is_taken(run, echo):
    done = run("serve", "--port", echo.port)
    assert done.code == 2
    assert f"cannot listen on 127.0.0.1:{echo.port}" in done.err


def test_completion_knows_the_commands():
    import os
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "hybrid_infer"],
        env={**os.environ, "_HYBRID_INFER_COMPLETE": "complete_bash",
             "COMP_WORDS": "hybrid-infer s", "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"serve", "status"} <= set(done.stdout.split())
