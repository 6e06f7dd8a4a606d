"""The tar files that bundles are: the same files, the same bytes; and nothing else is read.

A reader here does not parse what a stranger wrote. It knows which member comes next and how long it
may be, makes the header that the writer would have made, and compares: another name, a link, a
device, an owner, an extension or a byte too many are all the same difference. (The format: POSIX
ustar with GNU's long names, as Python's tarfile writes it; blocks of 512 bytes, two of zeros at the
end.)
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.compression import BundleError, Readable, Writable

__all__ = ["ArchiveReader", "BundleError", "Member", "header_of", "write_archive"]

BLOCK = 512
_COPY_BYTES = 1024 * 1024
_END = b"\0" * (2 * BLOCK)
_SIZE = slice(124, 136)  # of a ustar header: the length, octal


def header_of(name: str, size: int) -> bytes:
    """The one header that a member may have."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Member:
    """What is to be written.

    Attributes:
        name: its path in the archive.
        size: in bytes.
        contents: in memory, or a file.
        sha256: what it must have, in hex; None: whatever it has.
    """

    name: str
    size: int
    contents: Path | bytes
    sha256: str | None = None


def write_archive(target: Writable, members: Iterable[Member]) -> str:
    """Write members in the order given.

    Args:
        target: takes its bytes.
        members: what to write.

    Returns:
        The SHA-256 of the archive, in hex.

    Raises:
        ModelIntegrityError: a file has another size or hash by now.
        OSError: the disk refused.
    """
    whole = hashlib.sha256()

    def write(piece: bytes) -> None:
        whole.update(piece)
        target.write(piece)

    for member in members:
        write(header_of(member.name, member.size))
        if _written(member, write) != member.sha256 and member.sha256 is not None:
            raise ModelIntegrityError(f"{member.name} changed while it was written")
        write(_padding(member.size))
    write(_END)
    return whole.hexdigest()


def _written(member: Member, write: Callable[[bytes], object]) -> str:
    """Write the contents of a member; returns their SHA-256."""
    digest, contents = hashlib.sha256(), member.contents

    def take(piece: bytes) -> None:
        digest.update(piece)
        write(piece)

    with io.BytesIO(contents) if isinstance(contents, bytes) else contents.open("rb") as opened:
        if _copy(opened.read, member.size, take) != member.size:
            raise ModelIntegrityError(f"{member.name} changed while it was written")
    return digest.hexdigest()


class ArchiveReader:
    """Reads an archive from front to back, told at each step what must come.

    Args:
        source: gives its bytes, from the beginning.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._whole = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all that was read so far, in hex: of the whole archive, after `end`."""
        return self._whole.hexdigest()

    def small(self, name: str, max_bytes: int) -> bytes:
        """The contents of the next member, whose length is not known before.

        Args:
            name: what it must be called.
            max_bytes: how long it may be.

        Raises:
            BundleError: something else comes, or it is too long.
        """
        header = self._read(BLOCK)
        digits = header[_SIZE].rstrip(b"\0 ")
        size = int(digits, 8) if re.fullmatch(rb"[0-7]{1,11}", digits) else max_bytes + 1
        if size > max_bytes or header != header_of(name, size):
            raise BundleError(f"this is no bundle: {name} does not come where it should")
        content = self._exactly(size)
        self._skip_padding(name, size)
        return content

    def member(self, name: str, size: int, write: Callable[[bytes], object]) -> str:
        """Pass on the next member.

        Args:
            name: what it must be called.
            size: how long it must be.
            write: takes its contents piece by piece.

        Returns:
            The SHA-256 of its contents, in hex.

        Raises:
            BundleError: something else comes.
        """
        wanted = header_of(name, size)
        if self._exactly(len(wanted)) != wanted:
            raise BundleError(f"{name} does not come where the bundle's own lock says")
        digest = hashlib.sha256()

        def take(piece: bytes) -> None:
            digest.update(piece)
            write(piece)

        if _copy(self._read, size, take) != size:
            raise BundleError(f"the bundle ends within {name}")
        self._skip_padding(name, size)
        return digest.hexdigest()

    def end(self) -> None:
        """Make sure that nothing follows.

        Raises:
            BundleError: something does.
        """
        if self._read(len(_END) + 1) != _END:
            raise BundleError("the bundle does not end where it should")

    def _read(self, size: int) -> bytes:
        content = self._source.read(size)
        self._whole.update(content)
        return content

    def _exactly(self, size: int) -> bytes:
        content = self._read(size)
        if len(content) != size:
            raise BundleError("the bundle is cut off")
        return content

    def _skip_padding(self, name: str, size: int) -> None:
        if self._exactly(len(_padding(size))) != _padding(size):
            raise BundleError(f"there is something between {name} and what follows")


def _padding(size: int) -> bytes:
    return b"\0" * (-size % BLOCK)


def _copy(read: Callable[[int], bytes], size: int, write: Callable[[bytes], object]) -> int:
    left = size
    while left and (piece := read(min(left, _COPY_BYTES))):
        write(piece)
        left -= len(piece)
    return size - left
