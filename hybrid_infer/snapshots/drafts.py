"""Folders that appear whole or not at all, whoever else writes the same one."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from hybrid_infer.errors import LocalEngineError

ABANDONED_SECONDS = 24 * 3600.0


def place_whole(
    target: Path, fill: Callable[[Path], None], *, is_usable: Callable[[Path], bool]
) -> None:
    """Fill a folder beside `target`, then rename it to `target`.

    Of several writers the first one's folder stays. What a killed writer left is removed after
    a day.

    Args:
        target: the folder to make.
        fill: writes the files below the empty folder that it is given.
        is_usable: whether a folder that is already at `target` may stay; else it is replaced.

    Raises:
        LocalEngineError: the disk refused.
    """
    draft = _beside(target)
    try:
        draft.mkdir(parents=True)
        _remove_abandoned(target.parent)
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


def _remove_abandoned(parent: Path) -> None:
    oldest = time.time() - ABANDONED_SECONDS
    for entry in parent.glob(".*"):
        try:
            is_abandoned = entry.is_dir() and entry.stat().st_mtime < oldest
        except FileNotFoundError:
            continue  # its writer has just finished
        if is_abandoned:
            shutil.rmtree(entry, ignore_errors=True)
