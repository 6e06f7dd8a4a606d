"""Weights that can be proved: every flipped bit is noticed, a file is read once, strict trusts nothing."""

import os
import random
import shutil
from dataclasses import replace

import pytest

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import digests
from hybrid_infer.snapshots.digests import digest_of, digests_of
from hybrid_infer.snapshots.lock import read_lock, record, user_lock
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import check_gguf, check_snapshot, measured

FLIPS = 1_000


@pytest.fixture
def small_folder(model_folder, tmp_path):
    """Few bytes of every kind of file, so that a thousand flips take a second."""
    folder = tmp_path / "snapshot" / ("c" * 40)
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").write_bytes(random.Random(1).randbytes(50_000))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def spec(folder, **changes):
    return replace(ModelSpec("embeddings", "mine", "org/model", folder.name), **changes)


def test_every_flipped_bit_is_noticed(hub, small_folder, capsys):
    chance = random.Random(7)
    wanted = spec(small_folder)
    record(wanted.repo, small_folder.name, measured(small_folder))
    files = sorted(file for file in small_folder.rglob("*") if file.is_file())
    sizes = [file.stat().st_size for file in files]
    found = 0
    for _ in range(FLIPS):
        (file,) = chance.choices(files, weights=[size + 500 for size in sizes])
        whole = file.read_bytes()
        place = chance.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(ModelIntegrityError, match=file.name):
            check_snapshot(wanted, small_folder, strict=False)
        found += 1
        file.write_bytes(whole)
        check_snapshot(wanted, small_folder, strict=True)
    with capsys.disabled():
        print(f"bit flips: {found} of {FLIPS} noticed")


def test_a_flip_that_keeps_size_and_time_is_noticed(hub, staged, pinned):
    file = staged / "model.safetensors"
    record(pinned.repo, staged.name, measured(staged))
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_snapshot(pinned) == staged  # its header is whole
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors.*hybrid-infer pull"):
        check_snapshot(pinned, staged, strict=False)


def test_a_file_is_read_once(hub, staged, pinned, monkeypatch):
    check_snapshot(pinned, staged, strict=True)
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    check_snapshot(pinned, staged, strict=True)


def test_a_file_that_was_changed_is_read_again(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    first = digest_of(file)
    file.write_bytes(b"two")
    assert digest_of(file) != first


def test_many_files_are_read_side_by_side(tmp_path):
    files = [tmp_path / str(number) for number in range(50)]
    for file in files:
        file.write_bytes(file.name.encode())
    assert digests_of(files) == {file: digest_of(file) for file in files}
    with pytest.raises(ModelIntegrityError, match="cannot be read"):
        digests_of([*files, tmp_path / "gone"])


def test_what_the_lock_does_not_list_has_no_business_there(hub, staged, pinned):
    (staged / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "evil.safetensors"}}'
    )
    with pytest.raises(ModelIntegrityError, match=r"index\.json is not among the files"):
        check_snapshot(pinned, staged, strict=False)


@pytest.mark.parametrize("name", ["README.md", "pytorch_model.bin", "onnx/config.json", "x.py"])
def test_what_is_never_loaded_may_lie_there(hub, staged, pinned, name):
    (staged / name).parent.mkdir(exist_ok=True)
    (staged / name).write_text("x")
    check_snapshot(pinned, staged, strict=True)


def test_what_the_lock_lists_must_be_there(hub, staged, pinned):
    (staged / "tokenizer_config.json").unlink()
    with pytest.raises(ModelIntegrityError, match=r"lacks tokenizer_config\.json, which models"):
        check_snapshot(pinned, staged, strict=False)


def test_strict_wants_a_listed_file(hub, staged, pinned):
    user_lock().unlink()
    check_snapshot(pinned, staged, strict=False)
    with pytest.raises(ModelIntegrityError, match=r"models\.lock does not list 1_Pooling/config"):
        check_snapshot(pinned, staged, strict=True)


def test_strict_wants_a_pin(hub, model_folder, unpinned):
    folder = stage(model_folder, unpinned)
    check_snapshot(unpinned, folder, strict=False)
    with pytest.raises(ModelIntegrityError, match="not pinned to a commit"):
        check_snapshot(unpinned, folder, strict=True)


def test_strict_stages_only_what_is_listed(hub, model_folder, pinned):
    with pytest.raises(ModelIntegrityError, match="does not list"):
        stage(model_folder, pinned, strict=True)
    assert not hub.exists()
    record(pinned.repo, pinned.revision, measured(model_folder))
    assert stage(model_folder, pinned, strict=True) == find_snapshot(pinned)


def test_strict_trusts_no_snapshot_because_it_is_there(hub, model_folder, pinned):
    stage(model_folder, pinned)
    user_lock().unlink()
    with pytest.raises(ModelIntegrityError, match="does not list"):
        stage(model_folder, pinned, strict=True)
    assert not user_lock().exists()


def test_other_files_than_the_lock_lists_are_not_staged(hub, model_folder, dense_folder, pinned):
    record(pinned.repo, pinned.revision, measured(model_folder))
    with pytest.raises(ModelIntegrityError, match="one source says"):
        stage(dense_folder, pinned)
    assert not hub.exists()


def test_a_staged_snapshot_is_trusted_as_it_came(hub, model_folder, pinned):
    stage(model_folder, pinned)
    listed = read_lock(user_lock())[pinned.repo, pinned.revision]
    assert listed == measured(model_folder)


def test_a_damaged_lock_proves_nothing(hub, staged, pinned):
    user_lock().write_text("{")
    with pytest.raises(ModelIntegrityError, match=r"models\.lock is not valid JSON"):
        check_snapshot(pinned, staged, strict=False)


def test_seeded_models_are_not_listed():
    tiny = load_registry(profile="tiny").resolve("embeddings", "small")
    check_snapshot(tiny, find_snapshot(tiny), strict=True)


def test_a_gguf_file_is_compared_too(tmp_path):
    gguf = GgufFile("deep/q4.gguf", "org/model", "d" * 40)
    alias = ModelSpec("chat", "mine", "org/model", None, gguf=gguf)
    path = tmp_path / ("d" * 40) / "deep" / "q4.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    check_gguf(alias, gguf, path, "d" * 40, strict=False)
    with pytest.raises(ModelIntegrityError, match="does not list deep/q4"):
        check_gguf(alias, gguf, path, "d" * 40, strict=True)
    record("org/model", "d" * 40, {gguf.file: digests_as_locked(path)})
    check_gguf(alias, gguf, path, "d" * 40, strict=True)
    path.write_bytes(b"GGUE")
    with pytest.raises(ModelIntegrityError, match=r"q4\.gguf has the SHA-256"):
        check_gguf(alias, gguf, path, "d" * 40, strict=False)


def digests_as_locked(path):
    from hybrid_infer.snapshots.lock import LockedFile

    return LockedFile(path.stat().st_size, digest_of(path))


def test_strict_refuses_a_file_of_no_repository(tmp_path):
    gguf = GgufFile(str(tmp_path / "q4.gguf"))
    alias = ModelSpec("chat", "mine", "org/model", None, gguf=gguf)
    check_gguf(alias, gguf, tmp_path / "q4.gguf", None, strict=False)
    with pytest.raises(ModelIntegrityError, match="not pinned"):
        check_gguf(alias, gguf, tmp_path / "q4.gguf", None, strict=True)
