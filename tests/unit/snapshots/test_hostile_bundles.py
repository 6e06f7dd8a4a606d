"""Bundles whose author means harm, all of them whole by their own lock: what they may not do."""

import hashlib
import json
import threading

import pytest

from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import installing
from hybrid_infer.snapshots.archive import Member, write_archive
from hybrid_infer.snapshots.bundles import members_of
from hybrid_infer.snapshots.folders import repo_folder
from hybrid_infer.snapshots.guards import downloaded_bytes, one_at_a_time
from hybrid_infer.snapshots.installing import install_bundle
from hybrid_infer.snapshots.lock import LockedFile, format_lock, locked_files, record, user_lock
from hybrid_infer.snapshots.staging import write_main

REPO, COMMIT, OTHER = "org/name", "f" * 40, "e" * 40
WHOLE = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"good"}
JOINING = {
    "model.safetensors.index.json": b'{"weight_map": {"a": "evil.safetensors"}}',
    "evil.safetensors": b"evil",
}


@pytest.fixture
def folder(hub, tmp_path, monkeypatch):
    """Where the bundles' snapshot comes to lie."""
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path / "own"))
    return repo_folder(REPO, hub) / "snapshots" / COMMIT


@pytest.fixture
def make(tmp_path):
    """Writes a bundle of some files, whole by its own lock."""

    def write(files, *, is_main=False, models_yaml=b"{}\n"):
        listed = {name: locked(body) for name, body in files.items()}
        model = {"name": REPO, "repo": REPO, "revision": COMMIT, "is_main": is_main}
        members = [
            ("bundle.json", json.dumps({"format": 1, "models": [model]}).encode()),
            ("models.lock", format_lock({(REPO, COMMIT): listed}).encode()),
            ("models.yaml", models_yaml),
        ]
        ordered = members_of({(REPO, COMMIT): listed})
        members += [
            (member, files[name])
            for (member, _, _), name in zip(ordered, sorted(files), strict=True)
        ]
        path = tmp_path / "hostile.bundle"
        with path.open("wb") as file:
            write_archive(file, [Member(name, len(body), body) for name, body in members])
        return path

    return write


def locked(body):
    return LockedFile(len(body), hashlib.sha256(body).hexdigest())


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_no_file_joins_a_snapshot_that_is_listed(folder, make):
    install_bundle(make(WHOLE))
    before = user_lock().read_bytes()
    with pytest.raises(
        ModelIntegrityError, match=r"is not among the files that models\.lock lists"
    ):
        install_bundle(make(WHOLE | JOINING))
    with pytest.raises(
        ModelIntegrityError, match=r"is not among the files that models\.lock lists"
    ):
        install_bundle(make(JOINING))
    assert contents(folder) == WHOLE
    assert user_lock().read_bytes() == before


def test_gguf_files_join_one_by_one_and_none_is_removed(folder, make):
    install_bundle(make({"q8.gguf": b"8"}))
    install_bundle(make({"deep/q4.gguf": b"4"}))
    install_bundle(make(WHOLE))
    files = {"q8.gguf": b"8", "deep/q4.gguf": b"4", **WHOLE}
    assert contents(folder) == files
    assert set(locked_files(REPO, COMMIT)) == set(files)


def test_what_a_bundle_lacks_stays_as_it_is(folder, make, tmp_path):
    install_bundle(make({**WHOLE, "1_Pooling/config.json": b"{}"}))
    (folder / "README.md").write_bytes(b"mine")
    blob = folder.parent.parent / "blobs" / "abc"
    blob.parent.mkdir()
    (folder / "tokenizer.json").replace(blob)
    (folder / "tokenizer.json").symlink_to("../../blobs/abc")
    (tmp_path / "secret").write_bytes(b"s")
    (folder / "leads-out").symlink_to(tmp_path / "secret")
    (folder / "config.json").write_bytes(b"xx")
    weights = (folder / "model.safetensors").stat().st_ino
    install_bundle(make({"config.json": b"{}"}))
    expected = {**WHOLE, "1_Pooling/config.json": b"{}", "README.md": b"mine"}
    assert contents(folder) == expected
    assert (folder / "model.safetensors").stat().st_ino == weights
    assert (folder / "tokenizer.json").is_symlink()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "modeling_x.py", "onnx/config.json", "run.sh", ".gitattributes"]
)
def test_other_kinds_of_files_are_refused(folder, make, name):
    with pytest.raises(ModelIntegrityError, match="a kind of file that is never placed"):
        install_bundle(make({**WHOLE, name: b"x"}))
    assert not folder.exists()


def test_main_stays_where_it_is(folder, make):
    repo = folder.parent.parent
    write_main(repo, OTHER)
    done = install_bundle(make(WHOLE, is_main=True))
    assert (repo / "refs" / "main").read_text() == OTHER
    assert done.other_mains == {REPO: OTHER}
    write_main(repo, COMMIT)
    assert install_bundle(make(WHOLE, is_main=True)).other_mains == {}


def test_it_waits_for_a_pull_of_the_same_repository(folder, make):
    path, started, done = make(WHOLE), threading.Event(), threading.Event()

    def install():
        started.set()
        install_bundle(path)
        done.set()

    thread = threading.Thread(target=install)
    with one_at_a_time(REPO):
        thread.start()
        started.wait()
        thread.join(0.3)
        assert not done.is_set()
        assert not folder.exists()
    thread.join()
    assert contents(folder) == WHOLE


def test_others_that_wait_see_it_getting_on(folder, make, monkeypatch):
    seen, checked = [], installing.check_member

    def check(*given):
        seen.append(downloaded_bytes(REPO))
        checked(*given)

    monkeypatch.setattr(installing, "check_member", check)
    install_bundle(make({f"{number}.json": bytes(2**17) for number in range(3)}))
    assert seen[0] < seen[1] < seen[2]


def test_what_is_placed_was_listed_before(folder, make, monkeypatch):
    def refuse(*_, **__):
        assert set(locked_files(REPO, COMMIT)) == set(WHOLE)
        raise LocalEngineError("killed here")

    monkeypatch.setattr(installing, "place_whole", refuse)
    with pytest.raises(LocalEngineError, match="killed here"):
        install_bundle(make(WHOLE))
    assert not folder.exists()


def test_a_packaged_entry_is_never_extended(folder, make, tmp_path, monkeypatch):
    packaged = tmp_path / "packaged.lock"
    listed = {name: locked(body) for name, body in WHOLE.items()}
    packaged.write_text(format_lock({(REPO, COMMIT): listed}))
    monkeypatch.setattr("hybrid_infer.snapshots.lock.PACKAGED", packaged)
    tail = {"2_Dense/model.safetensors": locked(b"x")}
    with pytest.raises(ModelIntegrityError, match="is not among"):
        record(REPO, COMMIT, tail, were_made_here=True)
    user_lock().parent.mkdir(exist_ok=True)
    user_lock().write_text(format_lock({(REPO, COMMIT): tail}))
    with pytest.raises(ModelIntegrityError, match="is not among"):
        locked_files(REPO, COMMIT)


GGUF = {"q4.gguf": b"4"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chat: [",
        "chat: {a: {repo: org/name, revision: COMMIT, surprise: 1}}",
        "remotes: [{name: evil, base_url: 'https://evil.example'}]",
        "remotes: []",
        "settings: {trust: {strict: false}}",
        "chat: {a: {repo: org/other, revision: COMMIT}}",
        "chat: {a: {repo: org/name, revision: OTHER}}",
        "chat: {a: {repo: org/name}}",  # main, and the bundle says that it is a commit
        "chat: {a: {repo: org/name, revision: COMMIT, gguf: q8.gguf}}",
        "chat: {a: {repo: org/name, revision: COMMIT, gguf: /models/q4.gguf}}",
        "chat: {a: {repo: org/name, revision: COMMIT, gguf: 'hf://org/other/q4.gguf'}}",
        "embeddings: {a: {dim: 3}}",
        "chat: &a {a: {repo: !!python/name:os.system x}}",
    ],
)
def test_a_models_yaml_of_anything_else_is_refused(folder, make, text):
    text = text.replace("COMMIT", COMMIT).replace("OTHER", OTHER)
    with pytest.raises(ModelIntegrityError, match=r"the bundle's models\.yaml"):
        install_bundle(make(WHOLE | GGUF, models_yaml=text.encode()))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("entry", "is_main"),
    [
        ({"repo": REPO, "revision": COMMIT}, False),
        ({"repo": REPO, "revision": None}, True),
        ({"repo": REPO, "revision": COMMIT, "gguf": "q4.gguf"}, False),
        ({"repo": "org/remote", "gguf": f"hf://{REPO}@{COMMIT}/q4.gguf"}, False),
        ({"repo": "org/remote", "gguf": f"hf://{REPO}/q4.gguf"}, True),
    ],
)
def test_a_models_yaml_is_written_anew(folder, make, entry, is_main):
    text = json.dumps({"chat": {"a": entry}}) + " # a comment"
    done = install_bundle(make(WHOLE | GGUF, models_yaml=text.encode(), is_main=is_main))
    written = done.models_yaml.read_text()
    assert "comment" not in written
    assert load_registry(done.models_yaml).resolve("chat", "a").repo == entry["repo"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("x.json", "x.json/y.json"), "in a folder that is a file"),
        (("x" * 300 + ".json",), "is no file of a repository"),
    ],
)
def test_what_no_disk_can_hold_is_refused_before_anything_is_listed(folder, make, names, told):
    with pytest.raises(ModelIntegrityError, match=told):
        install_bundle(make(WHOLE | dict.fromkeys(names, b"{}")))
    assert locked_files(REPO, COMMIT) == {}
    assert install_bundle(make(WHOLE)).folders[REPO, COMMIT] == folder
