"""SHA-256 of files, computed once a process for each state of a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from hybrid_infer.errors import ModelIntegrityError

_MOST_THREADS = 8

# What a file was when it was read: device, inode, size, times of its contents and of its inode.
_State = tuple[int, int, int, int, int]
_known: dict[str, tuple[_State, str]] = {}
_lock = Lock()


def digests_of(files: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, in hex; a file that has not changed since is not read again.

    Files are read by as many threads as there are cores: hashlib gives the interpreter's lock
    free.

    Raises:
        ModelIntegrityError: a file cannot be read; the message names it.
    """
    wanted = sorted(set(files), key=size_of, reverse=True)  # the largest first: they take longest
    if len(wanted) < 2:  # noqa: PLR2004 - nothing to share
        return {file: digest_of(file) for file in wanted}
    threads = min(len(wanted), os.cpu_count() or 1, _MOST_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="hybrid-infer-hash") as pool:
        return dict(zip(wanted, pool.map(digest_of, wanted), strict=True))


def digest_of(file: Path) -> str:
    """The SHA-256 of one file, in hex.

    Raises:
        ModelIntegrityError: it cannot be read; the message names it.
    """
    name = os.path.realpath(file)
    try:
        with Path(name).open("rb") as opened:
            state = _state(opened.fileno())
            known = _known.get(name)
            if known is not None and known[0] == state:
                return known[1]
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            # A new link to the file moves the time of its inode, and changes nothing.
            if _state(opened.fileno())[:4] != state[:4]:
                raise ModelIntegrityError(f"{file} changed while it was read")
    except OSError as error:
        raise ModelIntegrityError(f"{file} cannot be read: {error.strerror}") from None
    with _lock:
        _known[name] = (state, digest)
    return digest


def rename_known(source: Path, target: Path) -> None:
    """Rename a file; one that was read need not be read again for its new name.

    Raises:
        OSError: the disk refused.
    """
    name = os.path.realpath(source)
    known, before = _known.get(name), source.lstat()
    source.replace(target)
    after = target.lstat()
    with _lock:
        _known.pop(name, None)
        # Renaming moves the time of the inode, and changes nothing.
        if known is not None and known[0] == _state_of(before) and _same_file(before, after):
            _known[os.path.realpath(target)] = (_state_of(after), known[1])


def size_of(file: Path) -> int:
    """How many bytes a file has.

    Raises:
        ModelIntegrityError: it cannot be looked at; the message names it.
    """
    try:
        return file.stat().st_size
    except OSError as error:
        raise ModelIntegrityError(f"{file} cannot be read: {error.strerror}") from None


def git_blob_id(file: Path) -> str:
    """The name that git gives a file's contents: SHA-1 of ``blob``, its length, and itself.

    Raises:
        ModelIntegrityError: it cannot be read; the message names it.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelIntegrityError(f"{file} cannot be read: {error.strerror}") from None
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _state(descriptor: int) -> _State:
    return _state_of(os.fstat(descriptor))


def _state_of(found: os.stat_result) -> _State:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _same_file(before: os.stat_result, after: os.stat_result) -> bool:
    return _state_of(before)[:4] == _state_of(after)[:4]
