"""models.lock: which bytes a model's files have, by repository, commit and file.

The lock is JSON, sorted, one file a line, the same text for the same contents::

    {
      "version": 1,
      "models": {
        "org/name": {
          "<40 hex digits>": {
            "config.json": {"sha256": "<64 hex digits>", "size": 612}
          }
        }
      }
    }

Two are read: the one that comes with this package, for the built-in aliases as far as their hashes
are known, and the user's, ``$HYBRID_INFER_CACHE_DIR/models.lock``, which `pull` writes. What both
list must be the same. Once a commit's snapshot is listed no file joins it, for one more file can
be other weights; GGUF files stand each for itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.registry.names import hub_id_problem
from hybrid_infer.snapshots.drafts import whole_file
from hybrid_infer.snapshots.folders import cache_root
from hybrid_infer.snapshots.guards import guarded
from hybrid_infer.snapshots.selection import is_allowed

PACKAGED = Path(__file__).with_name("models.lock")
LOCK_NAME = "models.lock"
GUARD_NAME = ".models.lock.guard"
VERSION = 1
MAX_LOCK_BYTES = 16 * 1024 * 1024
MAX_FILE_BYTES = 2**50

_REVISION = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NAME = 500
_MAX_PART = 255  # bytes; file systems take no longer names


@dataclass(frozen=True, slots=True)
class LockedFile:
    """What one file must be.

    Attributes:
        size: in bytes.
        sha256: of its contents, 64 hex digits.
    """

    size: int
    sha256: str


# Files by their path inside the repository, with forward slashes.
Files = Mapping[str, LockedFile]
# By repository and commit.
Locked = dict[tuple[str, str], dict[str, LockedFile]]


def user_lock() -> Path:
    """Where the user's lock is."""
    return cache_root() / LOCK_NAME


def locked_files(repo: str, revision: str) -> Files:
    """What the two locks list for a repository at a commit; empty: nothing.

    Raises:
        ModelIntegrityError: a lock is damaged, or the two disagree.
    """
    key = (repo, revision)
    packaged, mine = read_lock(PACKAGED).get(key, {}), read_lock(user_lock()).get(key, {})
    _check_agreement(user_lock(), repo, mine, packaged)
    _check_names(user_lock(), repo, mine, packaged)
    return {**mine, **packaged}


def check_agreement(repo: str, revision: str, files: Files) -> None:
    """Refuse files that a lock lists as something else, or that would join a listed snapshot.

    Raises:
        ModelIntegrityError: one is, or would; the message names it.
    """
    known = locked_files(repo, revision)
    _check_agreement(user_lock(), repo, files, known)
    _check_names(user_lock(), repo, files, known)


def check_sizes(repo: str, revision: str, sizes: Mapping[str, int]) -> None:
    """`check_agreement`, where no more is known of the files than how many bytes they have.

    Raises:
        ModelIntegrityError: as `check_agreement`.
    """
    known = locked_files(repo, revision)
    _check_names(user_lock(), repo, sizes, known)
    said = {
        name: LockedFile(size, known[name].sha256) for name, size in sizes.items() if name in known
    }
    _check_agreement(user_lock(), repo, said, known)


def record(repo: str, revision: str, files: Files, *, were_made_here: bool = False) -> None:
    """Add files to the user's lock; several processes may do so at once.

    Args:
        repo: whose they are.
        revision: its commit.
        files: what they are.
        were_made_here: whether they were converted from files of the commit, and so may join a
            snapshot that the user's lock lists already.

    Raises:
        ModelIntegrityError: a lock lists one of them as something else, or lists the snapshot
            without it; it is left as it is.
        LocalEngineError: the disk refused, or another process holds the lock's lock.
    """
    record_all({(repo, revision): dict(files)}, were_made_here=were_made_here)


def record_all(entries: Mapping[tuple[str, str], Files], *, were_made_here: bool = False) -> None:
    """`record`, for several models: all or none.

    Args:
        entries: the files of each commit.
        were_made_here: as `record`.

    Raises:
        ModelIntegrityError: as `record`.
        LocalEngineError: as `record`.
    """
    path = user_lock()
    with guarded(path.with_name(GUARD_NAME)):
        locked = read_lock(path)
        before = format_lock(locked)
        for (repo, revision), files in entries.items():
            packaged = read_lock(PACKAGED).get((repo, revision), {})
            known = locked.setdefault((repo, revision), {})
            _check_agreement(path, repo, files, {**known, **packaged})
            _check_names(path, repo, files, packaged)
            if not were_made_here:
                _check_names(path, repo, files, {**known, **packaged})
            known.update(files)
        text = format_lock(locked)
        if text != before:
            _write(path, text)


def _check_agreement(path: Path, repo: str, files: Files, known: Files) -> None:
    for name, file in files.items():
        listed = known.get(name)
        if listed is not None and listed != file:
            raise ModelIntegrityError(
                f"{name} of {repo}: one source says SHA-256 {file.sha256} ({file.size:,} bytes), "
                f"models.lock says {listed.sha256} ({listed.size:,} bytes). The files of a commit "
                f"never change: one of them is wrong. If it is the lock, remove its entry from {path}"
            )


def _check_names(path: Path, repo: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a file that would join a listed snapshot: a loader might take its weights from it."""
    listed = {name for name in known if is_allowed(name)}
    added = sorted(name for name in names if is_allowed(name) and name not in listed)
    if listed and added:
        raise ModelIntegrityError(
            f"{added[0]} of {repo} is not among the files that models.lock lists at that commit, "
            "and the files of a commit never change. If it is the lock that lacks it, remove its "
            f"entry from {path}"
        )


def read_lock(path: Path) -> Locked:
    """What a lock lists; a file that is not there lists nothing.

    Raises:
        ModelIntegrityError: it cannot be read, or is no lock.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LOCK_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelIntegrityError(f"{path} cannot be read: {error.strerror}") from None
    return parse_lock(text, str(path))


def parse_lock(text: bytes, name: str) -> Locked:
    """The entries of a lock's text.

    Args:
        text: its bytes.
        name: what messages call it.

    Raises:
        ModelIntegrityError: it is no lock; the message says where.
    """
    if len(text) > MAX_LOCK_BYTES:
        raise ModelIntegrityError(f"{name} is too large to be a lock")
    try:
        document = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        raise ModelIntegrityError(f"{name} is not valid JSON, or names a key twice") from None
    match document:
        case {"version": 1, "models": dict(models), **others} if not others:
            pass
        case _:
            raise ModelIntegrityError(f"{name} is no models.lock of version {VERSION}")
    locked: Locked = {}
    for repo, revisions in models.items():
        if hub_id_problem(repo) or not isinstance(revisions, dict):
            raise ModelIntegrityError(f"{name}: {repo!r} is no entry of a model")
        for revision, files in revisions.items():
            if not _REVISION.fullmatch(revision) or not isinstance(files, dict):
                raise ModelIntegrityError(f"{name}: {repo}: {revision!r} is no commit")
            locked[repo, revision] = {
                file: _locked_file(f"{name}: {repo}", file, entry) for file, entry in files.items()
            }
    return locked


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is named twice")
    return found


def _locked_file(where: str, name: str, entry: Any) -> LockedFile:
    if not is_file_name(name):
        raise ModelIntegrityError(f"{where}: {name!r} is no file of a repository")
    match entry:
        case {"sha256": str(sha256), "size": int(size), **others} if (
            not others
            and _SHA256.fullmatch(sha256)
            and not isinstance(size, bool)
            and 0 <= size <= MAX_FILE_BYTES
        ):
            return LockedFile(size, sha256)
    raise ModelIntegrityError(f"{where}: {name} needs a sha256 and a size, and nothing else")


def is_file_name(name: str) -> bool:
    """Whether a name is a plain path inside a repository: relative, normal, printable."""
    parts = PurePosixPath(name).parts
    return (
        0 < len(name) <= _MAX_NAME
        and name.isprintable()
        and "\\" not in name
        and "/".join(parts) == name
        and not name.startswith("/")
        and not any(part in {"..", "."} or len(part.encode()) > _MAX_PART for part in parts)
    )


def is_revision(text: str) -> bool:
    """Whether a text is a whole commit id."""
    return _REVISION.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 in hex."""
    return _SHA256.fullmatch(text) is not None


def format_lock(locked: Mapping[tuple[str, str], Files]) -> str:
    """The text of a lock."""
    models: dict[str, dict[str, list[str]]] = {}
    for (repo, revision), files in sorted(locked.items()):
        lines = [
            f"        {json.dumps(name)}: "
            f"{json.dumps({'sha256': file.sha256, 'size': file.size}, sort_keys=True)}"
            for name, file in sorted(files.items())
        ]
        models.setdefault(repo, {})[revision] = lines
    repos = [
        f"    {json.dumps(repo)}: {{\n"
        + ",\n".join(
            f"      {json.dumps(revision)}: {{\n" + ",\n".join(lines) + "\n      }"
            for revision, lines in revisions.items()
        )
        + "\n    }"
        for repo, revisions in models.items()
    ]
    body = "{\n" + ",\n".join(repos) + "\n  }" if repos else "{}"
    return f'{{\n  "version": {VERSION},\n  "models": {body}\n}}\n'


def _write(path: Path, text: str) -> None:
    """Replace a lock whose guard is held."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise LocalEngineError(f"{path} could not be written: {error.strerror}") from None
