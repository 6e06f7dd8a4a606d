"""Files and folders that appear whole or not at all, whoever else writes the same one.

Each is written beside its place under a name of its own, ``.<name>.<32 hex digits>``, and renamed. Its
writer holds a lock on it (flock), which ends with the process: whoever can take it knows that nobody
writes any more, and removes what was left.
"""

from __future__ import annotations

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


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` when the ``with`` block ends well.

    Raises:
        OSError: the disk refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent, re.escape(path.name))
    draft = _beside(path)
    try:
        with draft.open("xb") as file:
            _hold(file.fileno())
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
    draft = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent, ".+")
        draft.mkdir()
        with _held_folder(draft):
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
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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
        if drafts.fullmatch(entry.name) and not _is_written(entry):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _is_written(draft: Path) -> bool:
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or none of ours
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _hold(descriptor: int) -> None:
    with suppress(OSError):  # a disk without locks: what a killed writer leaves there stays
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _held_folder(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _hold(descriptor)
        yield
    finally:
        os.close(descriptor)
