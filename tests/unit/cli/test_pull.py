import json

import pytest


@pytest.fixture
def folder():
    """A complete model folder: the tiny twin's files."""
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.resolve import find_snapshot

    return find_snapshot(load_registry(profile="tiny").resolve("embeddings", "small"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_folder_is_staged_as_a_hub_model(run, folder, tmp_path):
    done = run("pull", "org/name", "--from", folder)
    assert done.code == 0, done.err
    name, _, place = done.out.strip().partition(": ")
    assert name == "org/name"
    assert place.startswith(str(tmp_path / "hub" / "models--org--name" / "snapshots"))


def test_json_names_what_was_pulled(run, folder):
    done = run("pull", "org/name", "--from", folder, "--json")
    assert list(json.loads(done.out)["pulled"]) == ["org/name"]


def test_offline_is_exit_3_and_names_the_variable(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("pull", "embeddings/small")
    assert done.code == 3
    assert "HF_HUB_OFFLINE" in done.err
    failed = json.loads(run("pull", "embeddings/small", "chat/small", "--json").out)["failed"]
    assert set(failed) == {"embeddings/small", "chat/small"}


def test_all_means_each_repository_once(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    failed = json.loads(run("pull", "--all", "--json").out)["failed"]
    assert set(failed) == {
        "chat/default", "chat/small", "embeddings/default", "embeddings/large", "embeddings/small",
    }  # fmt: skip


def test_one_failure_does_not_keep_the_others_away(run, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("pull", "nonsense", "embeddings/small")
    assert done.code == 3
    assert "unknown alias 'nonsense'" in done.err
    assert "HF_HUB_OFFLINE" in done.err


@pytest.mark.parametrize(
    "words", [[], ["--all", "chat/small"], ["a/b", "c/d", "--from", "."], ["small"]]
)
def test_unclear_wishes_exit_2(run, words):
    done = run("pull", *words)
    assert done.code == 2
    assert done.err.startswith("error: ")


def test_a_folder_that_is_not_there_exits_2(run, tmp_path):
    done = run("pull", "org/name", "--from", tmp_path / "nothing")
    assert done.code == 2
    assert "nothing is not a folder" in done.err
    done = run("pull", "org/name", "--from", tmp_path / "nothing", "--json")
    assert done.code == 2
    assert json.loads(done.out)["failed"]["org/name"]["argument"] == "source"


def test_a_dry_run_asks_for_names_too(run, monkeypatch, folder):
    assert run("pull", "--dry-run").code == 2
    assert run("pull", "a/b", "--from", folder, "--dry-run").code == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("pull", "--all", "--dry-run", "--json")
    assert done.code == 3
    assert set(json.loads(done.out)["failed"]) == {
        "chat/default", "chat/small", "embeddings/default", "embeddings/large", "embeddings/small",
    }  # fmt: skip
