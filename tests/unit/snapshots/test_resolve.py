"""Finding snapshots: the Hub's layout, and every way in which files can be wrong."""

import json
import struct
import threading

import numpy as np
import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    ConfigError,
    ModelIntegrityError,
    ModelNotDownloadedError,
)
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny_models
from hybrid_infer.snapshots.download import pull, stage
from hybrid_infer.snapshots.facts import check_assertions, complete_spec, snapshot_facts
from hybrid_infer.snapshots.folders import cache_root, hub_cache_dir, offline_variable
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.tiny import safetensors_bytes, write_tiny

REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"
PINNED = ModelSpec(
    "embeddings",
    "small",
    "sentence-transformers/all-MiniLM-L6-v2",
    REVISION,
    dim=384,
    max_seq_length=256,
    pooling="mean",
    dense=False,
)
UNPINNED = ModelSpec("embeddings", None, "org/model", None)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    spec = load_registry(profile="tiny").resolve("embeddings", "small")
    write_tiny(tiny_models.bert(spec), folder)
    return folder


@pytest.fixture
def staged(hub, model_folder):
    """A private copy, so that a test may damage it."""
    folder = stage(model_folder, PINNED)
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    return folder


def test_folders_follow_the_environment_of_the_moment(tmp_path):
    home = {"HF_HOME": str(tmp_path)}
    assert hub_cache_dir(home) == tmp_path / "hub"
    assert hub_cache_dir({**home, "HF_HUB_CACHE": str(tmp_path / "x")}) == tmp_path / "x"
    assert cache_root({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "hybrid_infer"
    assert cache_root({"HYBRID_INFER_CACHE_DIR": str(tmp_path / "own")}) == tmp_path / "own"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="HYBRID_INFER_CACHE_DIR"):
        cache_root({"HYBRID_INFER_CACHE_DIR": str(tmp_path / "file")})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "off"}, None),
    ],
)
def test_offline_variables(environ, expected):
    assert offline_variable(environ) == expected


def test_a_missing_snapshot_names_the_exact_command(hub):
    with pytest.raises(ModelNotDownloadedError, match="hybrid-infer pull embeddings/small") as e:
        find_snapshot(PINNED)
    assert str(hub) in str(e.value)
    with pytest.raises(ModelNotDownloadedError, match="hybrid-infer pull org/model"):
        find_snapshot(UNPINNED)


def test_a_pinned_snapshot_is_found_at_its_commit(staged):
    assert find_snapshot(PINNED) == staged
    assert staged.name == REVISION
    facts = snapshot_facts(staged)
    check_assertions(PINNED, facts)
    assert (facts.model_type, facts.pooling, facts.has_normalize) == ("bert", "mean", True)


def test_an_unpinned_snapshot_is_what_main_points_to(hub, model_folder):
    folder = stage(model_folder, UNPINNED)
    assert find_snapshot(UNPINNED) == folder
    assert (folder.parent.parent / "refs" / "main").read_text() == folder.name
    completed = complete_spec(UNPINNED, snapshot_facts(folder))
    assert (completed.dim, completed.max_seq_length, completed.dense) == (384, 256, False)


@pytest.mark.parametrize("name", ["../../../etc", "a/b", ""])
def test_a_ref_cannot_leave_the_cache(hub, model_folder, name):
    folder = stage(model_folder, UNPINNED)
    (folder.parent.parent / "refs" / "main").write_text(name)
    with pytest.raises(ModelNotDownloadedError):
        find_snapshot(UNPINNED)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json"])
def test_an_incomplete_snapshot_names_the_file(staged, name):
    (staged / name).unlink()
    with pytest.raises(ModelIntegrityError, match=name):
        find_snapshot(PINNED)


def test_a_pickle_is_never_a_substitute(staged):
    (staged / "model.safetensors").rename(staged / "pytorch_model.bin")
    with pytest.raises(ModelIntegrityError, match=r"pytorch_model\.bin is a pickle"):
        find_snapshot(PINNED)


def test_a_link_out_of_the_repository_is_refused(staged, tmp_path):
    outside = tmp_path / "outside.safetensors"
    (staged / "model.safetensors").rename(outside)
    (staged / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelIntegrityError, match="points outside"):
        find_snapshot(PINNED)


def test_links_to_blobs_are_the_ordinary_layout(staged):
    blobs = staged.parent.parent / "blobs"
    blobs.mkdir()
    (staged / "model.safetensors").rename(blobs / "abc")
    (staged / "model.safetensors").symlink_to("../../blobs/abc")
    assert find_snapshot(PINNED) == staged


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>" + b" " * 100, "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "damaged header"),
        (struct.pack("<Q", 2) + b"{x", "damaged header"),
    ],
)
def test_files_that_are_not_safetensors(staged, content, message):
    (staged / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=message):
        snapshot_facts(find_snapshot(PINNED))


def test_truncation_is_noticed_at_every_length():
    whole = safetensors_bytes({"a": np.ones((2, 2), np.float32)})
    import tempfile
    from pathlib import Path

    from hybrid_infer.snapshots.facts import safetensors_header

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model.safetensors")
        file.write_bytes(whole)
        assert safetensors_header(file)["a"]["shape"] == [2, 2]
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(ModelIntegrityError):
                safetensors_header(file)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "evil.module.Thing", "path": ""}, "only sentence_transformers"),
        ({"type": "sentence_transformers.models.Dense", "path": "../../up"}, "outside"),
        ({"type": "sentence_transformers.models.Dense", "path": "/etc"}, "outside"),
    ],
)
def test_hostile_modules_are_refused(staged, entry, message):
    (staged / "modules.json").write_text(json.dumps([entry]))
    with pytest.raises(ModelIntegrityError, match=message):
        snapshot_facts(staged)


@pytest.mark.parametrize(
    ("key", "value"), [("dim", 385), ("max_seq_length", 512), ("pooling", "cls"), ("dense", True)]
)
def test_a_snapshot_that_disagrees_with_the_yaml_is_refused(staged, key, value):
    from dataclasses import replace

    with pytest.raises(ModelIntegrityError, match=key):
        check_assertions(replace(PINNED, **{key: value}), snapshot_facts(staged))


def test_staging_is_idempotent_and_safe_from_many_threads(hub, model_folder):
    found, barrier = [], threading.Barrier(8)

    def work():
        barrier.wait()
        found.append(stage(model_folder, PINNED))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert [p.name for p in found[0].parent.iterdir()] == [REVISION]


def test_staging_leaves_code_and_pickles_behind(hub, model_folder, tmp_path):
    import shutil

    folder = tmp_path / "with-code"
    shutil.copytree(model_folder, folder)
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    staged = stage(folder, PINNED)
    assert not (staged / "modeling.py").exists()
    assert not (staged / "pytorch_model.bin").exists()


def test_pull_while_offline_names_the_variable(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(APIConnectionError, match="HF_HUB_OFFLINE"):
        pull(PINNED)


def test_pull_from_a_dead_hub_is_our_own_error(hub):
    with pytest.raises(APIConnectionError, match="could not be reached") as caught:
        pull(PINNED, endpoint="http://127.0.0.1:9", token="hf_canary_canary_canary", progress=False)
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
