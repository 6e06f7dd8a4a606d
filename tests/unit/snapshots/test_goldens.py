import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.goldens import (
    FOLDER,
    Goldens,
    encode_goldens,
    golden_file,
    has_goldens,
    load_goldens,
    read_goldens,
)
from hybrid_infer.snapshots.probes import PROBES

SCRIPT = Path(__file__).parents[3] / "scripts" / "make_goldens.py"
FOLDERS = {"small": "all-MiniLM-L6-v2", "default": "all-mpnet-base-v2"}
REPO, REVISION = "org/name", "0123456789abcdef"


def spec_of(alias):
    return load_registry().resolve("embeddings", alias)


@pytest.mark.parametrize("alias", FOLDERS)
def test_the_package_has_them_for_its_pins(alias):
    spec = spec_of(alias)
    goldens = load_goldens(spec)
    assert (goldens.repo, goldens.revision) == (spec.repo, spec.revision)
    assert goldens.vectors.shape == (len(PROBES), spec.dim)
    np.testing.assert_allclose(np.linalg.norm(goldens.vectors, axis=1), 1, atol=1e-6)
    others = goldens.vectors @ goldens.vectors.T - np.eye(len(PROBES))
    assert others.max() < 0.95, "no two probes say the same"


def test_they_are_small_and_hold_no_pickle():
    files = list(FOLDER.iterdir())
    assert {file.suffix for file in files} == {".safetensors"}
    assert sum(file.stat().st_size for file in files) < 300_000


def test_another_model_another_commit_and_no_pin_have_none():
    small = spec_of("small")
    assert has_goldens(small)
    for spec in (
        spec_of("large"),
        replace(small, revision=None),
        replace(small, revision="f" * 40),
        replace(small, task="chat"),
        replace(small, prompt="query: "),
        load_registry(profile="tiny").resolve("embeddings", "small"),
    ):
        assert not has_goldens(spec)
        assert load_goldens(spec) is None


def made(tmp_path, change=lambda data: data, vectors=None):
    rows = np.eye(len(PROBES), 16, dtype=np.float32) if vectors is None else vectors
    path = golden_file(REPO, REVISION, tmp_path)
    path.write_bytes(change(encode_goldens(Goldens(REPO, REVISION, rows))))
    return path


def test_what_is_written_is_read(tmp_path):
    path = made(tmp_path)
    assert read_goldens(path, REPO, REVISION).vectors.shape == (len(PROBES), 16)
    assert path.read_bytes() == made(tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "cannot be read"),
        (lambda data: b"", "cannot be read"),
        (lambda data: data.replace(b"org/name", b"org/nome"), "repo 'org/nome'"),
        (lambda data: data.replace(b"0123456789abcdef", b"f123456789abcdef"), "revision"),
        (lambda data: data.replace(b"probes_sha256", b"probes_sha512"), "probes_sha256"),
    ],
)
def test_what_is_damaged_or_anothers_is_refused(tmp_path, change, message):
    with pytest.raises(ModelIntegrityError, match=message):
        read_goldens(made(tmp_path, change), REPO, REVISION)


@pytest.mark.parametrize("rows", [np.ones((3, 4), np.float32), np.ones(3, np.float32)])
def test_the_wrong_shape_is_refused(tmp_path, rows):
    with pytest.raises(ModelIntegrityError, match="shape"):
        read_goldens(made(tmp_path, vectors=rows), REPO, REVISION)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelIntegrityError, match="cannot be read"):
        read_goldens(tmp_path / "none.safetensors", REPO, REVISION)


@pytest.mark.real_weights
@pytest.mark.parametrize("alias", FOLDERS)
def test_plain_sentence_transformers_still_says_the_same(weights, alias):
    if not (weights / FOLDERS[alias]).is_dir():
        pytest.skip(f"{FOLDERS[alias]} was not fetched")
    found = importlib.util.spec_from_file_location("make_goldens", SCRIPT)
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    written = load_goldens(spec_of(alias)).vectors
    again = script.golden_vectors(weights / FOLDERS[alias])
    assert (again * written).sum(1).min() >= 0.999999
    np.testing.assert_allclose(again, written, atol=2e-6)
