"""What a killed download leaves in the Hub's cache, and how damaged files leave it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from hybrid_infer.snapshots.folders import hub_cache_dir, repo_folder


def remove_partial_downloads(repo: str) -> None:
    """Remove the unfinished files of downloads that are no more.

    huggingface_hub writes to a name of its own for each try (``<etag>.<random>.incomplete``) and so
    never reuses what a killed process has left. It holds ``.locks/<repo>/<etag>.lock`` meanwhile
    (``file_download.py``): whoever can take that lock knows that nobody writes.
    """
    cache = hub_cache_dir()
    folder = repo_folder(repo, cache)
    for partial in (folder / "blobs").glob("*.incomplete"):
        lock = cache / ".locks" / folder.name / f"{partial.name.partition('.')[0]}.lock"
        if not _is_held(lock):
            partial.unlink(missing_ok=True)
    for draft in (folder / "trees").glob("*.tmp"):  # its cache of listings bears their loss
        draft.unlink(missing_ok=True)


def forget_listing(repo: str, revision: str) -> None:
    """Remove what huggingface_hub remembers of a commit's files; it will ask again."""
    listing = repo_folder(repo, hub_cache_dir()) / "trees" / f"{revision}.json"
    listing.unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def downloaded_bytes(repo: str) -> int:
    """How much of a repository is here, unfinished files and drafts of snapshots included.

    It grows with a download, and while a bundle or a folder is placed.
    """
    folder, total = repo_folder(repo, hub_cache_dir()), 0
    for pattern in ("blobs/*", "snapshots/.*/**/*"):
        with suppress(OSError):  # its writer has just renamed it
            total += sum(file.stat().st_size for file in folder.glob(pattern))
    return total


def remove_file(file: Path) -> None:
    """Remove a link and, within the cache, every link and blob behind it."""
    cache = Path(os.path.realpath(hub_cache_dir()))
    while cache in (path := Path(os.path.realpath(file.parent)) / file.name).parents:
        behind = file.parent / file.readlink() if file.is_symlink() else None
        path.unlink(missing_ok=True)
        if behind is None:
            return
        file = behind
