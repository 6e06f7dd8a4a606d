import json

import pytest

from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage

MODELS = {"embeddings": {"mine": {"repo": "org/name", "revision": "a" * 40}}}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A models.yaml whose alias is on this machine."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "models.yaml"
    path.write_text(json.dumps(MODELS))
    tiny = find_snapshot(load_registry(profile="tiny").resolve("embeddings", "small"))
    stage(tiny, load_registry(path).resolve("embeddings", "mine"))
    return path


def test_create_inspect_install(run, models, tmp_path, monkeypatch):
    bundle = tmp_path / "it.tar"
    made = run("bundle", "create", "embeddings/mine", "-o", bundle, "--models", models)
    assert made.code == 0, made.err
    seen = run("bundle", "inspect", bundle)
    assert seen.out == made.out
    assert "embeddings/mine  org/name@aaaaaaa" in seen.out
    listed = json.loads(run("bundle", "inspect", bundle, "--json").out)
    assert listed["sha256"] in made.out
    assert "config.json" in listed["models"][0]["files"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "there"))
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path / "own"))
    done = json.loads(run("bundle", "install", bundle, "--json").out)
    assert done["installed"]["embeddings/mine"].startswith(str(tmp_path / "there"))
    embedded = run(
        "embed", "-", "--model", "mine", "--models", done["models_yaml"], "--strict",
        "--policy", "local-only", stdin="one text\n",
    )  # fmt: skip
    assert embedded.code == 0, embedded.err
    assert len(json.loads(embedded.out)) == 384


def test_a_model_that_is_not_here_exits_3(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run("bundle", "create", "embeddings/small", "-o", tmp_path / "x")
    assert done.code == 3
    assert "hybrid-infer pull embeddings/small" in done.err


def test_a_file_that_is_no_bundle_exits_1(run, tmp_path):
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    assert run("bundle", "install", tmp_path / "x").code == 1
    assert run("bundle", "inspect", tmp_path / "none").code == 2
