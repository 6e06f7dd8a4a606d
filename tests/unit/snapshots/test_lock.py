"""models.lock: its text, what is refused of it, and many writers at once."""

import json
import subprocess
import sys

import pytest

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots import lock
from hybrid_infer.snapshots.lock import LockedFile, format_lock, parse_lock, read_lock, record

COMMIT, OTHER = "a" * 40, "b" * 40
FILE = LockedFile(3, "ab" * 32)
PARSED = {("org/name", COMMIT): {"config.json": FILE}}


def text_of(**changes):
    document = {
        "version": 1,
        "models": {"org/name": {COMMIT: {"config.json": {"sha256": "ab" * 32, "size": 3}}}},
    }
    return json.dumps(document | changes).encode()


def entry(repo="org/name", revision=COMMIT, name="config.json", **file):
    return text_of(models={repo: {revision: {name: {"sha256": "ab" * 32, "size": 3} | file}}})


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models.lock"


def test_what_is_recorded_is_read_again(own):
    record("org/name", COMMIT, {"config.json": FILE})
    assert lock.locked_files("org/name", COMMIT) == {"config.json": FILE}
    assert lock.locked_files("org/name", OTHER) == {}


def test_its_text_is_sorted_json_with_one_file_a_line(own):
    record("z/z", OTHER, {"b": FILE, "a/b.json": FILE})
    record("a/a", COMMIT, {"é.json": FILE})
    text = own.read_text()
    assert json.loads(text)["version"] == 1
    assert text.index('"a/a"') < text.index('"z/z"')
    assert text.count(FILE.sha256) == len([line for line in text.splitlines() if "sha256" in line])
    assert format_lock(parse_lock(text.encode(), "it")) == text
    record("a/a", COMMIT, {"é.json": FILE})
    assert own.read_text() == text


def test_the_packaged_lock_is_one():
    read = read_lock(lock.PACKAGED)
    assert lock.PACKAGED.read_text() == format_lock(read)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b"\xff\xfe",
        text_of(version=2),
        text_of(models=[]),
        text_of(extra=1),
        b'{"version": 1, "version": 1, "models": {}}',
        text_of(models={"name": {}}),
        text_of(models={"../..": {}}),
        text_of(models={"org/name": []}),
        text_of(models={"org/name": {COMMIT: []}}),
        entry(revision="main"),
        entry(revision=COMMIT.upper()),
        entry(name="../up"),
        entry(name="/etc/passwd"),
        entry(name="a//b"),
        entry(name="./a"),
        entry(name="a\\b"),
        entry(name="a\nb"),
        entry(name=""),
        entry(name="x" * 501),
        entry(sha256="ab" * 31),
        entry(sha256="AB" * 32),
        entry(sha256=None),
        entry(size=-1),
        entry(size=True),
        entry(size=2.0),
        entry(size=2**60),
        entry(extra=1),
    ],
)
def test_what_is_no_lock_is_refused(text):
    with pytest.raises(ModelIntegrityError, match="it"):
        parse_lock(text, "it")


def test_a_lock_without_end_is_refused(own, monkeypatch):
    monkeypatch.setattr(lock, "MAX_LOCK_BYTES", 100)
    own.parent.mkdir()
    own.write_text(text_of().decode())
    with pytest.raises(ModelIntegrityError, match="too large"):
        read_lock(own)


def test_a_lock_that_cannot_be_read_is_refused(own):
    own.mkdir(parents=True)
    with pytest.raises(ModelIntegrityError, match="cannot be read"):
        lock.locked_files("org/name", COMMIT)


def test_a_commit_never_changes(own):
    record("org/name", COMMIT, {"config.json": FILE})
    before = own.read_bytes()
    with pytest.raises(ModelIntegrityError, match=r"config\.json of org/name.*remove its entry"):
        record("org/name", COMMIT, {"new": FILE, "config.json": LockedFile(3, "cd" * 32)})
    assert own.read_bytes() == before


def test_the_packaged_lock_wins(own, tmp_path, monkeypatch):
    packaged = tmp_path / "packaged.lock"
    packaged.write_text(format_lock(PARSED))
    monkeypatch.setattr(lock, "PACKAGED", packaged)
    assert lock.locked_files("org/name", COMMIT) == {"config.json": FILE}
    with pytest.raises(ModelIntegrityError):
        record("org/name", COMMIT, {"config.json": LockedFile(4, FILE.sha256)})
    own.parent.mkdir(exist_ok=True)
    own.write_text(format_lock({("org/name", COMMIT): {"config.json": LockedFile(3, "0" * 64)}}))
    with pytest.raises(ModelIntegrityError):
        lock.locked_files("org/name", COMMIT)


WRITER = """
import sys
from hybrid_infer.snapshots.lock import LockedFile, record
for number in range(20):
    record("org/name", "%040x" % number, {f"file-{sys.argv[1]}": LockedFile(number, "ab" * 32)})
"""


def test_many_processes_write_one_lock(own):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(number)]) for number in range(6)]
    assert [writer.wait(60) for writer in writers] == [0] * 6
    locked = read_lock(own)
    assert len(locked) == 20
    assert all(len(files) == 6 for files in locked.values())
    assert sorted(entry.name for entry in own.parent.iterdir()) == [
        ".models.lock.guard",
        "models.lock",
    ]
