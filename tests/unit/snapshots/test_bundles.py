"""Bundles: the same bytes each time, and nothing of a hostile one is ever placed."""

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import (
    InvalidRequestError,
    LocalEngineError,
    ModelIntegrityError,
    ModelNotDownloadedError,
)
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import bundles, listing
from hybrid_infer.snapshots.archive import Member, header_of, write_archive
from hybrid_infer.snapshots.bundled_aliases import aliases_of
from hybrid_infer.snapshots.bundles import create_bundle, inspect_bundle
from hybrid_infer.snapshots.installing import install_bundle
from hybrid_infer.snapshots.lock import LockedFile, format_lock, parse_lock, record, user_lock
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import check_snapshot

FLIPS = 200


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another machine: an empty cache of its own, to move to."""

    def move():
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other" / "hub"))
        monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path / "other" / "own"))
        return tmp_path / "other" / "hub"

    return move


@pytest.fixture
def bundle(hub, model_folder, dense_folder, pinned, unpinned, tmp_path):
    stage(model_folder, pinned)
    stage(dense_folder, unpinned)
    create_bundle(tmp_path / "it.bundle", [unpinned, pinned])
    return tmp_path / "it.bundle"


def placed(hub):
    return [file for file in hub.rglob("*") if file.is_file()] if hub.exists() else []


@pytest.mark.parametrize("kind", ["pipe", "folder", "nameless"])
def test_only_a_file_is_replaced(hub, model_folder, pinned, tmp_path, monkeypatch, kind):
    stage(model_folder, pinned)
    monkeypatch.chdir(tmp_path)
    target = Path() if kind == "nameless" else tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    with pytest.raises(InvalidRequestError, match="is not a file that can be replaced") as caught:
        create_bundle(target, [pinned])
    assert caught.value.argument == "target"
    assert target.is_fifo() or target.is_dir()


def test_what_was_bundled_is_found_elsewhere(bundle, other, pinned, unpinned, model_folder):
    hub = other()
    done = install_bundle(bundle)
    for spec in (pinned, unpinned):
        folder = find_snapshot(spec)
        assert hub in folder.parents
        check_snapshot(replace(spec, revision=folder.name), folder, strict=True)
    weights = find_snapshot(pinned) / "model.safetensors"
    assert weights.read_bytes() == (model_folder / "model.safetensors").read_bytes()
    aliases = load_registry(done.models_yaml)
    assert aliases.resolve("embeddings", "small") == pinned


def test_installing_again_changes_nothing_and_mends_what_is_damaged(bundle, other, pinned):
    hub = other()
    install_bundle(bundle)
    files = {file: file.stat().st_ino for file in placed(hub) if file.name != "main"}
    install_bundle(bundle)
    assert {file: file.stat().st_ino for file in files} == files
    weights = find_snapshot(pinned) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"?")
    install_bundle(bundle)
    assert weights.read_bytes() == whole


def test_the_same_models_give_the_same_bytes(bundle, pinned, unpinned, tmp_path):
    again = tmp_path / "again.bundle"
    create_bundle(again, [pinned, unpinned])
    assert again.read_bytes() == bundle.read_bytes()


def test_it_is_an_ordinary_tar_file(bundle, pinned):
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
        assert names[:3] == ["bundle.json", "models.lock", "models.yaml"]
        assert names[3:] == sorted(names[3:])
        manifest = json.load(archive.extractfile("bundle.json"))
        assert all(member.isreg() and member.mtime == 0 for member in archive)
    assert {model["name"] for model in manifest["models"]} == {"embeddings/small", "org/model"}


def test_every_alias_survives_its_models_yaml(tmp_path):
    specs = load_registry().models
    gguf = GgufFile("deep/q4.gguf", "org/gguf", "a" * 40)
    mine = replace(specs[0], alias="mine", gguf=gguf, allow_quantized=True, provider="together")
    path = tmp_path / "models.yaml"
    path.write_bytes(aliases_of([*specs, mine]))
    read = load_registry(path)
    for spec in (*specs, mine):
        assert read.resolve(spec.task, spec.alias) == spec


def test_a_model_that_is_not_here_is_said(hub, pinned, tmp_path):
    with pytest.raises(ModelNotDownloadedError, match="hybrid-infer pull"):
        create_bundle(tmp_path / "x", [pinned])
    assert not (tmp_path / "x").exists()


def test_a_damaged_model_is_not_bundled(hub, staged, pinned, tmp_path):
    weights = staged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors"):
        create_bundle(tmp_path / "x", [pinned])
    assert list(tmp_path.glob("*x*")) == []


def test_a_model_that_changes_meanwhile_is_not_bundled(hub, staged, pinned, tmp_path, monkeypatch):
    weights, holding = staged / "model.safetensors", bundles._holding

    def changing(spec):
        held = holding(spec)
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        return held

    monkeypatch.setattr(bundles, "_holding", changing)
    with pytest.raises(
        ModelIntegrityError, match=r"model\.safetensors changed while it was written"
    ):
        create_bundle(tmp_path / "x", [pinned])
    assert list(tmp_path.glob("*x*")) == []


def test_the_hash_is_that_of_the_bytes_that_were_read(bundle, pinned, unpinned, tmp_path):
    whole = hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert inspect_bundle(bundle).sha256 == whole
    assert create_bundle(tmp_path / "again", [pinned, unpinned]).sha256 == whole


def test_what_needs_no_bundle_is_said(tmp_path):
    tiny = load_registry(profile="tiny").resolve("embeddings", "small")
    with pytest.raises(InvalidRequestError, match="seeded"):
        create_bundle(tmp_path / "x", [tiny])
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    alone = ModelSpec("chat", "a", "org/m", None, gguf=GgufFile(str(tmp_path / "q4.gguf")))
    with pytest.raises(InvalidRequestError, match="file of this machine alone"):
        create_bundle(tmp_path / "x", [alone])


def test_a_gguf_file_travels_alone(hub, tmp_path, other):
    gguf = GgufFile("deep/q4.gguf", "org/gguf", "d" * 40)
    spec = ModelSpec("chat", "mine", "org/m", None, gguf=gguf, allow_quantized=True)
    folder = hub / "models--org--gguf" / "snapshots" / gguf.revision / "deep"
    folder.mkdir(parents=True)
    (folder / "q4.gguf").write_bytes(b"GGUF" * 100)
    create_bundle(tmp_path / "x", [spec])
    there = other()
    install_bundle(tmp_path / "x")
    assert [file.name for file in placed(there)] == ["q4.gguf"]


def test_a_disk_without_room_is_said_before_a_byte(bundle, other, monkeypatch):
    hub = other()
    monkeypatch.setattr(listing, "free_bytes", lambda _: 1000)
    with pytest.raises(LocalEngineError, match="are needed"):
        install_bundle(bundle)
    assert placed(hub) == []


def test_a_disk_that_fills_up_leaves_nothing_half(bundle, other, monkeypatch):
    hub = other()
    calls = []

    def refuse(*_):
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("hybrid_infer.snapshots.installing.check_member", refuse)
    with pytest.raises(LocalEngineError, match="No space left"):
        install_bundle(bundle)
    assert all(".safetensors" not in file.name for file in placed(hub) if "refs" not in str(file))


# Hostile ones ------------------------------------------------------------------------------------


def test_a_bit_that_flipped_anywhere_is_noticed(bundle, other, capsys):
    hub, chance = other(), random.Random(3)
    whole = bundle.read_bytes()
    for _ in range(FLIPS):
        place = chance.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        bundle.write_bytes(flipped)
        with pytest.raises(ModelIntegrityError):
            install_bundle(bundle)
    assert placed(hub) == []
    with capsys.disabled():
        print(f"bits flipped in a bundle: {FLIPS} of {FLIPS} noticed")


def test_a_bundle_that_is_cut_off_is_refused_at_every_kind_of_place(bundle, other):
    hub, whole = other(), bundle.read_bytes()
    chance = random.Random(5)
    cuts = {0, 1, 511, 512, 513, len(whole) - 1, len(whole) - 512, len(whole) - 1024}
    for cut in cuts | {chance.randrange(len(whole)) for _ in range(60)}:
        bundle.write_bytes(whole[:cut])
        with pytest.raises(ModelIntegrityError):
            install_bundle(bundle)
    bundle.write_bytes(whole + b"\0")
    with pytest.raises(ModelIntegrityError, match="does not end"):
        install_bundle(bundle)
    assert placed(hub) == []


FILE = LockedFile(2, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")  # {}
COMMIT = "f" * 40
MEMBER = f"models--org--name/snapshots/{COMMIT}/config.json"


def forged(tmp_path, *, models=None, lock=None, members=None, manifest=None):
    """A bundle with what its author should not have put there."""
    model = {"name": "org/name", "repo": "org/name", "revision": COMMIT, "is_main": False}
    manifest = {"format": 1, "models": models or [model]} if manifest is None else manifest
    lock = lock or format_lock({("org/name", COMMIT): {"config.json": FILE}})
    texts = [json.dumps(manifest).encode(), lock.encode(), b"{}\n"]
    body = io.BytesIO()
    named = zip(["bundle.json", "models.lock", "models.yaml"], texts, strict=True)
    write_archive(body, [Member(name, len(text), text) for name, text in named])
    content = body.getvalue()[:-1024]
    for member in members if members is not None else [(header_of(MEMBER, 2), b"{}")]:
        head, data = member
        content += head + data + b"\0" * (-len(data) % 512)
    path = tmp_path / "forged.bundle"
    path.write_bytes(content + b"\0" * 1024)
    return path


def entry(name, kind=tarfile.REGTYPE, link="", size=2):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size, member.mode = kind, link, size, 0o644
    return member.tobuf(tarfile.GNU_FORMAT)


def test_an_honest_forgery_is_installed(tmp_path, other):
    hub = other()
    install_bundle(forged(tmp_path))
    assert [file.name for file in placed(hub)] == ["config.json"]


@pytest.mark.parametrize(
    "members",
    [
        [(entry("../../evil"), b"{}")],
        [(entry("/etc/evil"), b"{}")],
        [(entry(MEMBER, tarfile.SYMTYPE, "/etc/passwd", 0), b"")],
        [(entry(MEMBER, tarfile.LNKTYPE, "/etc/passwd", 0), b"")],
        [(entry(MEMBER, tarfile.CHRTYPE, size=0), b"")],
        [(entry(MEMBER, tarfile.FIFOTYPE, size=0), b"")],
        [(entry(MEMBER, tarfile.DIRTYPE, size=0), b"")],
        [(entry("pax", tarfile.XHDTYPE, size=2**33), b"")],
        [(entry(MEMBER, size=3), b"{} ")],
        [(entry(MEMBER, size=2**33), b"{}")],
        [(header_of(MEMBER, 2), b"[]")],
        [(header_of(MEMBER, 2), b"{}"), (header_of(MEMBER, 2), b"{}")],
        [(header_of(MEMBER, 2), b"{}"), (header_of("more", 2), b"{}")],
        [],
    ],
)
def test_members_that_the_lock_does_not_announce_are_refused(tmp_path, other, members):
    hub = other()
    with pytest.raises(ModelIntegrityError):
        install_bundle(forged(tmp_path, members=members))
    assert placed(hub) == []
    assert not user_lock().exists()


@pytest.mark.parametrize(
    "name", ["../../../../evil", "/etc/evil", "a/../../b", "./config.json", "a\\b", "a\nb"]
)
def test_a_lock_with_a_path_that_leaves_is_refused(tmp_path, other, name):
    hub = other()
    lock = format_lock({("org/name", COMMIT): {name: FILE}})
    with pytest.raises(ModelIntegrityError, match="no file of a repository"):
        install_bundle(forged(tmp_path, lock=lock, members=[(header_of("x", 2), b"{}")]))
    assert placed(hub) == []


@pytest.mark.parametrize(
    "manifest",
    [
        [], {"format": 2, "models": []}, {"format": 1, "models": []}, {"format": 1},
        {"format": 1, "models": [{}]},
        {"format": 1, "models": [{"name": "x", "repo": "../..", "revision": COMMIT, "is_main": False}]},
        {"format": 1, "models": [{"name": "x", "repo": "org/name", "revision": "main", "is_main": False}]},
        {"format": 1, "models": [{"name": "x\n", "repo": "org/name", "revision": COMMIT, "is_main": False}]},
        {"format": 1, "models": [{"name": "x", "repo": "org/other", "revision": COMMIT, "is_main": False}]},
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(tmp_path, other, manifest):
    hub = other()
    with pytest.raises(ModelIntegrityError):
        install_bundle(forged(tmp_path, manifest=manifest))
    assert placed(hub) == []


def test_texts_without_end_are_refused(tmp_path, other, monkeypatch):
    other()
    path = forged(tmp_path)
    monkeypatch.setattr(bundles, "MAX_TEXT_BYTES", 20)
    with pytest.raises(ModelIntegrityError, match=r"bundle\.json does not come where"):
        inspect_bundle(path)


def test_the_lock_of_this_machine_knows_better(tmp_path, other):
    hub = other()
    record("org/name", COMMIT, {"config.json": LockedFile(2, "00" * 32)})
    with pytest.raises(ModelIntegrityError, match="one source says"):
        install_bundle(forged(tmp_path))
    assert placed(hub) == []


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"PK\x03\x04" + b"\0" * 5000])
def test_other_files_are_no_bundles(tmp_path, other, content):
    other()
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ModelIntegrityError):
        install_bundle(tmp_path / "x")


def test_no_file_is_the_callers_mistake(tmp_path):
    with pytest.raises(InvalidRequestError) as caught:
        install_bundle(tmp_path / "none")
    assert caught.value.argument == "bundle"


def test_a_bundle_that_changes_meanwhile_is_not_placed(bundle, other, tmp_path, monkeypatch):
    hub = other()
    evil = tmp_path / "evil"
    shutil.copy(forged(tmp_path), evil)
    checked = inspect_bundle(bundle)
    monkeypatch.setattr("hybrid_infer.snapshots.installing.inspect_bundle", lambda _: checked)
    with pytest.raises(ModelIntegrityError, match="changed while it was installed"):
        install_bundle(evil)
    assert placed(hub) == []


def test_locks_are_read_as_any_other(bundle):
    with tarfile.open(bundle) as archive:
        text = archive.extractfile("models.lock").read()
    assert format_lock(parse_lock(text, "it")).encode() == text
