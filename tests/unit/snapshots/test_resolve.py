"""Finding snapshots: the Hub's layout, and every way in which files can be wrong."""

import json
import struct
from dataclasses import replace

import pytest

from hybrid_infer.errors import ModelIntegrityError, ModelNotDownloadedError
from hybrid_infer.snapshots.facts import check_assertions, complete_spec, snapshot_facts
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage

REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"


def test_a_missing_snapshot_names_the_exact_command(hub, unpinned, pinned):
    with pytest.raises(ModelNotDownloadedError, match="hybrid-infer pull embeddings/small") as e:
        find_snapshot(pinned)
    assert str(hub) in str(e.value)
    with pytest.raises(ModelNotDownloadedError, match="hybrid-infer pull org/model"):
        find_snapshot(unpinned)


def test_a_pinned_snapshot_is_found_at_its_commit(staged, pinned):
    assert find_snapshot(pinned) == staged
    assert staged.name == REVISION
    facts = snapshot_facts(staged)
    check_assertions(pinned, facts)
    assert (facts.model_type, facts.pooling, facts.has_normalize) == ("bert", "mean", True)


def test_an_unpinned_snapshot_is_what_main_points_to(hub, model_folder, unpinned):
    folder = stage(model_folder, unpinned)
    assert find_snapshot(unpinned) == folder
    assert (folder.parent.parent / "refs" / "main").read_text() == folder.name
    completed = complete_spec(unpinned, snapshot_facts(folder))
    assert (completed.dim, completed.max_seq_length, completed.dense) == (384, 256, False)


@pytest.mark.parametrize("name", ["../../../etc", "a/b", ""])
def test_a_ref_cannot_leave_the_cache(hub, model_folder, name, unpinned):
    folder = stage(model_folder, unpinned)
    (folder.parent.parent / "refs" / "main").write_text(name)
    with pytest.raises(ModelNotDownloadedError):
        find_snapshot(unpinned)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json"])
def test_an_incomplete_snapshot_names_the_file(staged, name, pinned):
    (staged / name).unlink()
    with pytest.raises(ModelIntegrityError, match=name):
        find_snapshot(pinned)


def test_a_pickle_is_never_a_substitute(staged, pinned):
    (staged / "model.safetensors").rename(staged / "pytorch_model.bin")
    with pytest.raises(ModelIntegrityError, match=r"pytorch_model\.bin is a pickle"):
        find_snapshot(pinned)


def test_a_link_out_of_the_repository_is_refused(staged, tmp_path, pinned):
    outside = tmp_path / "outside.safetensors"
    (staged / "model.safetensors").rename(outside)
    (staged / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelIntegrityError, match="points outside"):
        find_snapshot(pinned)


def test_links_to_blobs_are_the_ordinary_layout(staged, pinned):
    blobs = staged.parent.parent / "blobs"
    blobs.mkdir()
    (staged / "model.safetensors").rename(blobs / "abc")
    (staged / "model.safetensors").symlink_to("../../blobs/abc")
    assert find_snapshot(pinned) == staged


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
def test_files_that_are_not_safetensors(staged, content, message, pinned):
    (staged / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=message):
        find_snapshot(pinned)


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
def test_a_snapshot_that_disagrees_with_the_yaml_is_refused(staged, key, value, pinned):
    with pytest.raises(ModelIntegrityError, match=key):
        check_assertions(replace(pinned, **{key: value}), snapshot_facts(staged))


def shared_blob(staged, name):
    """Move a file where huggingface_hub puts what repositories share, linked as it links it."""
    repo = staged.parent.parent
    store = repo.parent / "blobs" / "ab"
    store.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (staged / name).rename(store / "abc")
    (repo / "blobs" / "etag").symlink_to("../../blobs/ab/abc")
    (staged / name).symlink_to("../../blobs/etag")


def test_blobs_that_repositories_share_are_inside(staged, pinned):
    shared_blob(staged, "model.safetensors")
    assert find_snapshot(pinned) == staged


def test_a_whole_repository_linked_from_elsewhere_is_refused(staged, pinned, tmp_path):
    repo = staged.parent.parent
    repo.rename(tmp_path / "elsewhere")
    repo.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelIntegrityError, match="points outside"):
        find_snapshot(pinned)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "1_Pooling", "loop"])
def test_no_file_or_folder_of_a_snapshot_leads_out(staged, pinned, tmp_path, name):
    if name == "loop":
        (staged / name).symlink_to(name)
        assert find_snapshot(pinned) == staged
        return
    (staged / name).rename(tmp_path / name)
    (staged / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelIntegrityError, match=name):
        find_snapshot(pinned)


def test_a_cache_that_is_itself_a_link_is_the_users_choice(staged, pinned, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "link"))
    assert find_snapshot(pinned).name == pinned.revision


@pytest.mark.parametrize("revision", ["../../../etc", "a/b", ".."])
def test_a_pin_cannot_leave_the_cache(staged, pinned, revision):
    with pytest.raises(ModelNotDownloadedError):
        find_snapshot(replace(pinned, revision=revision))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"<html>", "HTML"), (b"version https://git-lfs.github.com/", "LFS")],
)
def test_text_files_that_are_something_else(staged, pinned, name, content, words):
    (staged / name).write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=rf"{name}.*{words}"):
        find_snapshot(pinned)


def test_each_module_has_its_configuration(staged, pinned):
    (staged / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelIntegrityError, match=r"1_Pooling lacks config\.json"):
        find_snapshot(pinned)


def test_a_dense_tail_needs_its_own_safetensors(hub, dense_folder, unpinned):
    staged = stage(dense_folder, unpinned)
    weights = staged / "2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ModelIntegrityError, match=r"2_Dense.*pytorch_model\.bin is a pickle"):
        find_snapshot(unpinned)


def write_index(staged, placed):
    (staged / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def test_every_shard_is_checked(staged, pinned):
    content = (staged / "model.safetensors").read_bytes()
    for number in (1, 2):
        (staged / f"part-{number}.safetensors").write_bytes(content)
    (staged / "model.safetensors").unlink()
    write_index(staged, {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    assert find_snapshot(pinned) == staged
    (staged / "part-2.safetensors").write_bytes(content[:-1])
    with pytest.raises(ModelIntegrityError, match=r"part-2\.safetensors has .* truncated"):
        find_snapshot(pinned)
    (staged / "part-2.safetensors").unlink()
    with pytest.raises(ModelIntegrityError, match=r"lacks part-2\.safetensors"):
        find_snapshot(pinned)


@pytest.mark.parametrize("placed", [{}, [1], None, {"a": 1}, {"a": "../x"}, {"a": "/etc/passwd"}])
def test_an_index_names_plain_files(staged, pinned, placed):
    write_index(staged, placed)
    with pytest.raises(ModelIntegrityError, match=r"index\.json"):
        find_snapshot(pinned)


def test_looking_opens_no_socket_and_writes_nothing(staged, pinned, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("opened a socket"))
    before = {path: path.stat().st_mtime_ns for path in staged.rglob("*")}
    find_snapshot(pinned)
    snapshot_facts(staged)
    assert {path: path.stat().st_mtime_ns for path in staged.rglob("*")} == before
