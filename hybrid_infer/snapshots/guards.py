"""Locks between processes: one holder at a time, given back by the kernel when it dies, waits bounded."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import LocalEngineError
from hybrid_infer.snapshots.folders import INCOMING, cache_root, hub_cache_dir, repo_folder

PATIENCE_SECONDS = 60.0
_STEP_SECONDS = 0.05  # flock has no wait with an end


def one_at_a_time(repo: str) -> AbstractContextManager[None]:
    """Hold the lock of a repository's files: whoever places some takes it.

    Raises:
        LocalEngineError: as `guarded`.
    """
    return guarded(
        cache_root() / "locks" / f"{repo_folder(repo, Path()).name}.lock",
        progress=lambda: downloaded_bytes(repo),
    )


def downloaded_bytes(repo: str) -> int:
    """How much of a repository is here, unfinished files and drafts of snapshots included.

    It grows with a download, and while a bundle or a folder is placed.
    """
    folder, total = repo_folder(repo, hub_cache_dir()), 0
    for pattern in ("blobs/*", f"{INCOMING}/blobs/*", "snapshots/.*/**/*"):
        with suppress(OSError):  # its writer has just renamed it
            total += sum(file.stat().st_size for file in folder.glob(pattern))
    return total


@contextmanager
def guarded(
    path: Path,
    *,
    progress: Callable[[], object] = lambda: None,
    patience_seconds: float = PATIENCE_SECONDS,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock of one file for the length of a ``with`` block.

    Args:
        path: the lock's file; it is made, and stays.
        progress: what the holder's work has come to; while that changes, waiting goes on.
        patience_seconds: how long to wait without progress.
        clock: a monotonic clock in seconds.
        sleep: waits some seconds.

    Raises:
        LocalEngineError: another process has held it for too long, or the disk refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LocalEngineError(f"{path} could not be made: {error.strerror}") from None
    try:
        _acquire(descriptor, path, progress, patience_seconds, clock, sleep)
        yield
    finally:
        os.close(descriptor)  # which also gives the lock back


def _acquire(
    descriptor: int,
    path: Path,
    progress: Callable[[], object],
    patience_seconds: float,
    clock: Clock,
    sleep: Callable[[float], None],
) -> None:
    since, seen = clock(), progress()
    while not _try(descriptor, path):
        now = progress()
        if now != seen:
            since, seen = clock(), now
        if clock() - since >= patience_seconds:
            raise LocalEngineError(
                f"another process has held {path} for {patience_seconds:.0f} s and made no "
                "progress; end it, then try again"
            )
        sleep(_STEP_SECONDS)


def _try(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
            return False
        raise LocalEngineError(f"{path} could not be locked: {error.strerror}") from None
    return True
