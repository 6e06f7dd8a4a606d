"""The one pickle that pull reads, in a child process: tensors come out of it, and nothing else."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.snapshots import conversion
from hybrid_infer.snapshots.conversion import convert, pickled_tails
from hybrid_infer.snapshots.download import pull
from hybrid_infer.snapshots.lock import read_lock, user_lock
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import check_snapshot

TAIL = "2_Dense"
SPEC = ModelSpec("embeddings", "large", "org/t5", "8b3219a92973c328a8e22fadcfa821b5dc75636a")


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


@pytest.fixture
def pickled(dense_folder, tmp_path):
    """A model whose Dense layer is a pickle, as sentence-t5's was for years; and what it held."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(dense_folder, folder)
    tensors = load_file(folder / TAIL / "model.safetensors")
    (folder / TAIL / "model.safetensors").unlink()
    torch.save(tensors, folder / TAIL / "pytorch_model.bin")
    return folder, tensors


def test_only_tails_without_safetensors_are_pickled_ones():
    names = [
        "pytorch_model.bin", "2_Dense/pytorch_model.bin", "2_Dense/config.json",
        "3_Dense/pytorch_model.bin", "3_Dense/model.safetensors",
        "onnx/pytorch_model.bin", "a/4_Dense/pytorch_model.bin", "../5_Dense/pytorch_model.bin",
    ]  # fmt: skip
    assert pickled_tails(names) == ["2_Dense"]


def test_pull_converts_a_pickled_dense_layer_once(hub, serve_hub, pickled):
    import torch
    from safetensors.torch import load_file

    folder, tensors = pickled
    fake = serve_hub(folder)
    placed = pull(SPEC, endpoint=fake.url, progress=False)
    made = load_file(placed / TAIL / "model.safetensors")
    assert made.keys() == tensors.keys()
    assert all(torch.equal(made[name], tensors[name]) for name in made)
    assert not list(placed.rglob("*.bin"))
    assert not list(hub.rglob("*.bin*"))
    listed = read_lock(user_lock())[SPEC.repo, SPEC.revision]
    assert f"{TAIL}/model.safetensors" in listed
    assert f"{TAIL}/pytorch_model.bin" not in listed
    check_snapshot(SPEC, placed, strict=True)

    before = len(fake.fetched())
    assert pull(SPEC, endpoint=fake.url, progress=False, strict=True) == placed
    assert len(fake.fetched()) == before

    content = (placed / TAIL / "model.safetensors").read_bytes()
    (placed / TAIL / "model.safetensors").write_bytes(content[:-1] + b"\x07")
    pull(SPEC, endpoint=fake.url, progress=False)
    assert (placed / TAIL / "model.safetensors").read_bytes() == content


def test_a_folder_with_a_pickled_dense_layer_is_staged_without_it(hub, pickled, dense_folder):
    import torch
    from safetensors.torch import load_file

    folder, tensors = pickled
    placed = stage(folder, SPEC)
    made = load_file(placed / TAIL / "model.safetensors")
    assert all(torch.equal(made[name], tensors[name]) for name in tensors)
    assert not list(hub.rglob("*.bin"))
    assert [entry.name for entry in hub.iterdir()] == ["models--org--t5"]
    check_snapshot(SPEC, placed, strict=True)
    assert stage(folder, SPEC, strict=True) == placed
    assert (folder / TAIL / "pytorch_model.bin").exists()


def test_a_pickle_that_is_no_dense_layers_is_not_read(hub, pickled, monkeypatch):
    monkeypatch.setattr(conversion, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(ModelIntegrityError, match="too large for a Dense layer"):
        stage(pickled[0], SPEC)
    assert list(hub.iterdir()) == []


def test_a_pickle_that_runs_something_is_refused(hub, serve_hub, pickled, tmp_path):
    folder, _ = pickled
    mark = tmp_path / "mark"
    (folder / TAIL / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(str(mark)), 2))
    with pytest.raises(ModelIntegrityError, match=r"pytorch_model\.bin could not be converted"):
        pull(SPEC, endpoint=serve_hub(folder).url, progress=False)
    assert not mark.exists()
    assert list((hub / "models--org--t5").iterdir()) == []


def test_a_module_that_is_no_dense_layer_is_not_converted(hub, serve_hub, pickled, monkeypatch):
    folder, _ = pickled
    modules = json.loads((folder / "modules.json").read_bytes())
    for module in modules:
        if module["path"] == TAIL:
            module["type"] = "sentence_transformers.models.LSTM"
    (folder / "modules.json").write_text(json.dumps(modules))
    monkeypatch.setattr("hybrid_infer.snapshots.fetching.convert", lambda *_: pytest.fail("read"))
    fake = serve_hub(folder)
    pull(SPEC, endpoint=fake.url, progress=False)
    assert not [name for name in fake.fetched() if name.endswith(".bin")]


def test_a_pickle_that_is_another_one_than_the_hub_lists_is_not_read(
    hub, serve_hub, pickled, monkeypatch
):
    fake = serve_hub(pickled[0])
    name = f"{TAIL}/pytorch_model.bin"
    fake.sends[name] = fake.files[name][:-1] + b"x"
    monkeypatch.setattr("hybrid_infer.snapshots.fetching.convert", lambda *_: pytest.fail("read"))
    with pytest.raises(ModelIntegrityError, match="arrived with other contents"):
        pull(SPEC, endpoint=fake.url, progress=False)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {1: 2}, "text"])
def test_what_is_no_mapping_of_tensors_is_refused(tmp_path, value):
    import torch

    torch.save(value, tmp_path / "x.bin")
    with pytest.raises(ModelIntegrityError, match="something else than named tensors"):
        convert(tmp_path / "x.bin", tmp_path / "out" / "model.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_small_pickle_of_large_tensors_is_refused(tmp_path):
    import torch

    wide = torch.zeros(1).expand(60_000_000)
    torch.save({f"w{number}": wide for number in range(4)}, tmp_path / "x.bin")
    assert (tmp_path / "x.bin").stat().st_size < 10_000
    with pytest.raises(ModelIntegrityError, match="tensors are too large for a Dense layer"):
        convert(tmp_path / "x.bin", tmp_path / "y")
    torch.save({"w": torch.zeros(2, 2).to_sparse()}, tmp_path / "x.bin")
    with pytest.raises(ModelIntegrityError, match="could not be converted"):
        convert(tmp_path / "x.bin", tmp_path / "y")


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.bin", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w") as entry,
    ):
        for _ in range(520):
            entry.write(bytes(2**20))
    assert (tmp_path / "x.bin").stat().st_size < conversion.MAX_PICKLE_BYTES
    with pytest.raises(ModelIntegrityError, match="its archive unpacks to is too large"):
        convert(tmp_path / "x.bin", tmp_path / "y")


def test_the_child_ends_with_who_started_it(tmp_path):
    os.mkfifo(tmp_path / "pickle")  # opening it to read waits for a writer
    program = [sys.executable, conversion.unpickling.__file__, tmp_path / "pickle", tmp_path / "y"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as child:
        child.stdin.close()
        assert child.wait(60) == 1


PROGRAM = """
import resource, sys
import unpickling
from unittest.mock import patch
with patch("torch.load", lambda *_, **__: {"a": sys.exit("held") if bytearray(5 * 2**30) else 0}):
    unpickling.main(sys.argv[1], sys.argv[2])
"""


def test_the_child_cannot_hold_more_than_its_bound(tmp_path):
    torch_file = tmp_path / "x.bin"
    torch_file.write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(torch_file), str(tmp_path / "y")],
        cwd=Path(conversion.unpickling.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "torch refuses it (MemoryError)" in done.stderr


def test_the_child_finds_what_its_user_has_installed(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; f = sys.flags;"
        "sys.exit(str((f.no_user_site, f.ignore_environment, f.safe_path)))"
    )
    monkeypatch.setattr(conversion.unpickling, "__file__", str(program))
    with pytest.raises(ModelIntegrityError, match=r"\(0, 1, True\)"):
        convert(tmp_path / "x.bin", tmp_path / "y")


def test_the_same_pickle_gives_the_same_bytes(tmp_path):
    import torch

    torch.save({"b": torch.ones(3), "a": torch.zeros(2, 2)}, tmp_path / "x.bin")
    for name in ("one", "two"):
        convert(tmp_path / "x.bin", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_child_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "TIMEOUT_SECONDS", 0.01)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(LocalEngineError, match="was not converted within"):
        convert(tmp_path / "x.bin", tmp_path / "y")


def test_the_child_sees_no_environment(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text("import os, sys; sys.exit(repr(sorted(os.environ)))")
    monkeypatch.setattr(conversion.unpickling, "__file__", str(program))
    monkeypatch.setenv("HF_TOKEN", "hf_canary_canary_canary")
    with pytest.raises(ModelIntegrityError) as caught:
        convert(tmp_path / "x.bin", tmp_path / "y")
    assert "HF_TOKEN" not in caught.value.message
    assert "PATH" in caught.value.message
