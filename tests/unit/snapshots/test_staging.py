"""Staging local folders into the Hub's cache: whole or not at all, from any number of writers."""

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from hybrid_infer.errors import InvalidRequestError, LocalEngineError, ModelIntegrityError
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import drafts
from hybrid_infer.snapshots.lock import locked_files, read_lock, user_lock
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.selection import is_allowed
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import measured


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def from_threads(count, work):
    results, barrier = [], threading.Barrier(count)

    def start():
        barrier.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's result
            results.append(error)

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("kind", ["pinned", "unpinned"])
def test_many_threads_stage_one_snapshot(hub, model_folder, request, kind):
    spec = request.getfixturevalue(kind)
    found = from_threads(8, lambda: stage(model_folder, spec))
    assert len(found) == 8
    assert set(found) == {find_snapshot(spec)}
    assert names(found[0].parent) == [found[0].name]


def test_many_threads_repair_one_snapshot(staged, model_folder, pinned):
    (staged / "model.safetensors").write_bytes(b"")
    found = from_threads(8, lambda: stage(model_folder, pinned))
    assert set(found) == {staged}
    assert names(staged.parent) == [staged.name]
    assert find_snapshot(pinned) == staged


def test_files_are_linked_where_the_disk_allows(hub, model_folder, pinned):
    staged = stage(model_folder, pinned)
    assert (staged / "model.safetensors").samefile(model_folder / "model.safetensors")


def test_files_are_copied_where_it_does_not(hub, model_folder, pinned, monkeypatch):
    def refuse(*_):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    staged = stage(model_folder, pinned)
    assert not (staged / "model.safetensors").samefile(model_folder / "model.safetensors")
    assert find_snapshot(pinned) == staged


def test_a_broken_folder_leaves_nothing_behind(hub, model_folder, pinned, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    (broken / "tokenizer.json").unlink()
    with pytest.raises(ModelIntegrityError, match=r"broken lacks tokenizer\.json"):
        stage(broken, pinned)
    assert not hub.exists()
    assert stage(model_folder, pinned) == find_snapshot(pinned)


def test_a_folder_without_a_model(hub, tmp_path, pinned):
    (tmp_path / "x").mkdir()
    with pytest.raises(ModelIntegrityError, match=str(tmp_path / "x")):
        stage(tmp_path / "x", pinned)


def test_a_folder_that_is_not_there_is_a_wrong_argument(hub, tmp_path, pinned):
    (tmp_path / "file").touch()
    for name in ("nothing", "file"):
        with pytest.raises(InvalidRequestError, match=f"{name} is not a folder") as caught:
            stage(tmp_path / name, pinned)
        assert caught.value.argument == "source"


def test_other_contents_of_an_unpinned_model_move_main(hub, model_folder, unpinned, tmp_path):
    first = stage(model_folder, unpinned)
    changed = tmp_path / "changed"
    shutil.copytree(model_folder, changed)
    (changed / "generation_config.json").write_text("{}")
    second = stage(changed, unpinned)
    assert first != second == find_snapshot(unpinned)
    assert stage(model_folder, unpinned) == first == find_snapshot(unpinned)
    assert len(first.name) == 40


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", True),
        ("2_Dense/model.safetensors", True),
        ("tokenizer.model", True),
        ("chat_template.jinja", True),
        ("vocab.txt", True),
        ("pytorch_model.bin", False),
        ("model.pkl", False),
        ("modeling_x.py", False),
        ("onnx/deep/config.json", False),
        ("original/tokenizer.model", False),
        ("consolidated.00.safetensors", False),
        (".gitattributes", False),
    ],
)
def test_what_belongs_into_a_snapshot(name, expected):
    assert is_allowed(name) == expected


def test_a_seeded_model_takes_no_files(hub, model_folder):
    spec = load_registry(profile="tiny").resolve("embeddings", "small")
    with pytest.raises(InvalidRequestError) as caught:
        stage(model_folder, spec)
    assert caught.value.argument == "source"


def test_a_full_disk_is_a_local_error_and_leaves_nothing(hub, model_folder, pinned, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    with pytest.raises(LocalEngineError, match="No space left"):
        stage(model_folder, pinned)
    snapshots = hub / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots"
    assert names(snapshots) == []


KILLED = """
import os, pathlib, signal, sys
from hybrid_infer.snapshots.drafts import place_whole
def fill(draft):
    (draft / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
place_whole(pathlib.Path(sys.argv[1]), fill, is_usable=lambda _: True)
"""


def test_a_killed_writer_leaves_no_snapshot_and_the_next_removes_its_draft(tmp_path):
    target = tmp_path / "snapshots" / "abc"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert ended.returncode == -9
    assert not target.exists()
    assert len(names(target.parent)) == 1

    def place_another(draft):
        drafts.place_whole(target, lambda folder: (folder / "f").touch(), is_usable=lambda _: True)
        assert draft.exists()  # its writer is at work

    other = target.with_name("def")
    drafts.place_whole(other, place_another, is_usable=lambda _: True)
    assert names(target.parent) == ["abc", "def"]


def test_a_killed_writer_of_a_file_leaves_nothing_to_the_next(tmp_path):
    target = tmp_path / "x"
    left = tmp_path / f".x.{'0' * 32}"
    left.write_text("half")
    (tmp_path / ".x.mine").write_text("no draft of ours")
    with drafts.whole_file(target) as file, drafts.whole_file(target) as other:
        file.write(b"late")
        other.write(b"early")
    assert target.read_bytes() == b"late"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".x.mine", "x"]


def test_one_more_file_does_not_join_a_listed_snapshot(hub, model_folder, pinned, tmp_path):
    staged = stage(model_folder, pinned)
    more = tmp_path / "more"
    shutil.copytree(model_folder, more)
    (more / "evil.json").write_text("{}")
    (staged / "config.json").unlink()
    with pytest.raises(ModelIntegrityError, match=r"evil\.json of .* is not among the files"):
        stage(more, pinned)


def test_what_no_lock_lists_gives_way_to_what_is_staged(hub, model_folder, staged, pinned):
    user_lock().unlink()
    config = (model_folder / "config.json").read_bytes()
    (staged / "config.json").write_bytes(config + b" ")
    (staged / "q4.gguf").write_bytes(b"GGUF")
    assert stage(model_folder, pinned) == staged
    assert (staged / "config.json").read_bytes() == config
    assert (staged / "q4.gguf").read_bytes() == b"GGUF"
    assert locked_files(pinned.repo, pinned.revision) == measured(model_folder)


def test_what_is_staged_was_listed_before(hub, model_folder, pinned, monkeypatch):
    def refuse(*_, **__):
        assert locked_files(pinned.repo, pinned.revision) == measured(model_folder)
        raise LocalEngineError("killed here")

    monkeypatch.setattr("hybrid_infer.snapshots.staging.place_whole", refuse)
    with pytest.raises(LocalEngineError, match="killed here"):
        stage(model_folder, pinned)


@pytest.mark.parametrize(
    "assertion", [{"dim": 768}, {"max_seq_length": 100}, {"pooling": "cls"}, {"dense": True}]
)
def test_a_folder_of_another_model_than_the_alias_describes_is_not_staged(
    hub, model_folder, pinned, assertion
):
    with pytest.raises(ModelIntegrityError, match=r"models\.yaml says"):
        stage(model_folder, replace(pinned, **assertion))
    assert not hub.exists()
    assert not read_lock(user_lock())


def test_a_pin_that_was_staged_whole_is_never_replaced(
    hub, model_folder, dense_folder, pinned, tmp_path
):
    staged = stage(model_folder, pinned)
    with pytest.raises(ModelIntegrityError, match=r"another copy of .* is here already"):
        stage(dense_folder, pinned)
    assert stage(model_folder, pinned) == staged
    weights = next(model_folder.glob("*.safetensors"))
    other = shutil.copytree(model_folder, tmp_path / "a copy of it")
    assert stage(other, pinned) == staged, "the same files"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    (other / weights.name).write_bytes(changed)
    with pytest.raises(ModelIntegrityError, match=rf"{weights.name} of .* is not its own"):
        stage(other, pinned)
    assert (staged / "config.json").samefile(model_folder / "config.json")
    assert find_snapshot(replace(pinned)) == staged


@pytest.mark.parametrize("place", ["notes.txt", "1_Pooling/extra.json"])
def test_a_link_out_of_the_folder_is_not_followed(hub, model_folder, pinned, tmp_path, place):
    shutil.copytree(model_folder, tmp_path / "clone")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "clone" / place).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelIntegrityError, match=f"{place} is a link that leads out of"):
        stage(tmp_path / "clone", pinned)
    assert not any(file.samefile(tmp_path / "secret") for file in hub.rglob("*"))


def test_links_of_another_hub_s_cache_are_its_layout(hub, model_folder, pinned, tmp_path):
    repo = tmp_path / "other" / "models--org--model"
    shutil.copytree(model_folder, repo / "snapshots" / "main")
    (repo / "blobs").mkdir()
    config = repo / "snapshots" / "main" / "config.json"
    config.rename(repo / "blobs" / "abc")
    config.symlink_to("../../blobs/abc")
    assert names(stage(config.parent, pinned)) == names(model_folder)


def test_a_link_within_the_folder_and_a_link_to_it(hub, model_folder, pinned, tmp_path):
    shutil.copytree(model_folder, tmp_path / "clone")
    (tmp_path / "clone" / "config.json").rename(tmp_path / "clone" / "own.bin")
    (tmp_path / "clone" / "config.json").symlink_to("own.bin")
    (tmp_path / "link").symlink_to(tmp_path / "clone")
    assert names(stage(tmp_path / "link", pinned)) == names(model_folder)


def test_a_name_that_no_folder_can_have(hub, tmp_path, pinned):
    with pytest.raises(InvalidRequestError, match="is not a folder"):
        stage(tmp_path / ("x" * 300), pinned)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_draft_that_others_take_away_before_it_is_held_is_made_anew(tmp_path, monkeypatch, kind):
    hold, taken = drafts._hold, []

    def hold_late(descriptor):
        if not taken:
            taken.extend(names(tmp_path))
            drafts._remove_abandoned(tmp_path, ".+")
            assert names(tmp_path) == []
        return hold(descriptor)

    monkeypatch.setattr(drafts, "_hold", hold_late)
    target = tmp_path / "x"
    if kind == "file":
        with drafts.whole_file(target) as file:
            file.write(b"whole")
        assert target.read_bytes() == b"whole"
    else:
        drafts.place_whole(target, lambda folder: (folder / "f").touch(), is_usable=lambda _: True)
        assert names(target) == ["f"]
    assert (len(taken), names(tmp_path)) == (1, ["x"])


def test_a_folder_that_is_taken_away_before_it_is_open_is_made_anew(tmp_path, monkeypatch):
    make, lost = drafts.Path.mkdir, []

    def mkdir(path, *args, **kwargs):
        make(path, *args, **kwargs)
        if path.name.startswith(".x.") and not lost:
            lost.append(path)
            path.rmdir()

    monkeypatch.setattr(drafts.Path, "mkdir", mkdir)
    drafts.place_whole(tmp_path / "x", lambda folder: None, is_usable=lambda _: True)
    assert (len(lost), names(tmp_path)) == (1, ["x"])


def test_where_every_draft_is_taken_away_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(drafts, "_hold", lambda _: False)
    with pytest.raises(LocalEngineError, match="others take every draft away"):
        drafts.place_whole(tmp_path / "x", lambda _: None, is_usable=lambda _: True)
