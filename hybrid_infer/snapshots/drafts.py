"""Files and folders that appear whole or not at all, whoever else writes the same one.

Each is written beside its place under a name of its own, ``.<name>.<32 hex digits>``, and renamed. Its
writer holds a lock on it (flock), which ends with the process: whoever can take it knows that nobody
writes any more, and removes what was left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hybrid_infer.errors import LocalEngineError

MOST_TRIES = 10


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` when the ``with`` block ends well.

    Raises:
        OSError: the disk refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent, re.escape(path.name))
    draft, descriptor = _begun(path, _new_file)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def place_whole(
    target: Path, fill: Callable[[Path], None], *, is_usable: Callable[[Path], bool]
) -> None:
    """Fill a folder beside `target`, then rename it to `target`.

    Of several writers the first one's folder stays.

    Args:
        target: the folder to make.
        fill: writes the files below the empty folder that it is given.
        is_usable: whether a folder that is already at `target` may stay; else it is replaced.

    Raises:
        LocalEngineError: the disk refused.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent, ".+")
        with _new_beside(target) as draft:
            fill(draft)
            if target.is_dir() and not is_usable(target):
                _set_aside(target)
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():  # else another writer was first, with the same files
                    raise
    except OSError as error:
        raise LocalEngineError(f"{target} could not be written: {error.strerror}") from None


def keep_others(target: Path, draft: Path, cache: Path, is_kept: Callable[[str], bool]) -> None:
    """Link into a draft what its target holds besides: it is not the draft's to remove.

    Args:
        target: the folder that the draft is to replace; it need not be there.
        draft: the folder beside it, already filled; what is in it stays.
        cache: links that lead out of this folder are left behind; others stay links.
        is_kept: whether a file is wanted, by its path in the folder.

    Raises:
        OSError: the disk refused.
    """
    root = os.path.realpath(cache)
    for base, _, names in os.walk(target):
        for found in (Path(base, name) for name in names):
            place = draft / found.relative_to(target)
            leaves = os.path.commonpath([root, os.path.realpath(found)]) != root
            if leaves or not is_kept(found.relative_to(target).as_posix()):
                continue
            if any(parent.is_file() for parent in place.parents) or place.is_dir():
                continue  # the draft has a file where this was in a folder, or the other way
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(found, place, follow_symlinks=False)
            except OSError:  # a disk without hard links
                shutil.copy2(found, place, follow_symlinks=False)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


def _set_aside(target: Path) -> None:
    aside = _beside(target)
    try:
        target.rename(aside)
    except FileNotFoundError:
        return  # another writer is replacing it, too
    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove the drafts that nobody writes any more, of what a regular expression matches."""
    drafts = re.compile(rf"\.{name}\.[0-9a-f]{{32}}")
    for entry in parent.iterdir():
        if drafts.fullmatch(entry.name):
            _remove_unless_written(entry)


def _remove_unless_written(draft: Path) -> None:
    with suppress(OSError):  # gone, or none of ours; or written; or a disk without locks
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Under the lock: who has just made it, and holds it not yet, sees that it is lost.
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink()
        finally:
            os.close(descriptor)


def _begun(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new draft beside `target`, and the descriptor that holds it.

    Until it is held, another writer may take it for one that nobody writes any more.

    Args:
        target: what it is to become.
        make: makes it, and opens it.

    Raises:
        OSError: the disk refused.
    """
    for _ in range(MOST_TRIES):
        draft = _beside(target)
        try:
            descriptor = make(draft)
        except FileNotFoundError:  # taken away before it was open
            continue
        if _hold(descriptor) and draft.exists():
            return draft, descriptor
        os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, "others take every draft away")


def _new_file(draft: Path) -> int:
    return os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _new_folder(draft: Path) -> int:
    draft.mkdir()
    return os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _hold(descriptor: int) -> bool:
    """Lock a draft; False if another writer has, to remove it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a disk without locks: what a killed writer leaves there stays
    return True


@contextmanager
def _new_beside(target: Path) -> Iterator[Path]:
    draft, descriptor = _begun(target, _new_folder)
    try:
        yield draft
    finally:
        os.close(descriptor)
        shutil.rmtree(draft, ignore_errors=True)
