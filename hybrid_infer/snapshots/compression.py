"""Bundles in zstd's format (RFC 8878): one frame, unpacked as it is read and within bounds.

What a bundle is compared with, its own hash included, is the archive inside: two releases of zstd may pack
the same archive into different bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from hybrid_infer.errors import InvalidRequestError, ModelIntegrityError

SUFFIX = ".zst"
# Weights become a tenth to a quarter smaller, texts a few times: more is made to fill a machine.
MAX_RATIO = 64
_SPARE_BYTES = 16 * 1024 * 1024
_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_LOG = 27  # at most 128 MiB are held to unpack; `zstd` asks for more only with --ultra
_PIECE_BYTES = 1024 * 1024


class BundleError(ModelIntegrityError):
    """A file is no bundle, or was damaged or changed."""


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes; fewer at the end only."""


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, piece: bytes, /) -> object:
        """Take some bytes."""


@contextmanager
def packed_by_name(target: Path, file: BinaryIO) -> Iterator[Writable]:
    """Where to write an archive that is to be in a file: packed, if the file's name ends so.

    Raises:
        InvalidRequestError: it does, and there is no zstd here.
    """
    if target.suffix != SUFFIX:
        yield file
        return
    packing = _Packing(file)
    yield packing
    packing.end()


def unpacked(file: BinaryIO) -> Readable:
    """An archive from a file at its beginning, whether packed or not.

    Raises:
        InvalidRequestError: it is packed, and there is no zstd here.
    """
    start = file.read(len(_MAGIC))
    num_bytes = file.seek(0, 2)
    file.seek(0)
    return _Unpacking(file, num_bytes) if start == _MAGIC else file


class _Packing:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = _zstd().ZstdCompressor()

    def write(self, piece: bytes) -> None:
        self._file.write(self._packer.compress(piece))

    def end(self) -> None:
        self._file.write(self._packer.flush())


class _Unpacking:
    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        zstd = _zstd()
        self._file = file
        self._left = MAX_RATIO * num_bytes + _SPARE_BYTES
        self._error = zstd.ZstdError
        bounds = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        self._unpacker = zstd.ZstdDecompressor(options=bounds)

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size and not self._unpacker.eof:
            piece = self._next(size)
            pieces.append(piece)
            size -= len(piece)
        if self._unpacker.eof and (self._unpacker.unused_data or self._file.read(1)):
            raise BundleError("there is something behind the end of the bundle")
        content = b"".join(pieces)
        self._left -= len(content)
        if self._left < 0:
            raise BundleError(f"the bundle unpacks to more than {MAX_RATIO} times its size")
        return content

    def _next(self, size: int) -> bytes:
        packed = b""
        if self._unpacker.needs_input and not (packed := self._file.read(_PIECE_BYTES)):
            raise BundleError("the bundle is cut off")
        try:
            piece: bytes = self._unpacker.decompress(packed, max_length=size)
        except self._error:
            raise BundleError("the bundle is damaged: zstd cannot unpack it") from None
        return piece


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise InvalidRequestError(
            f"a bundle whose name ends in {SUFFIX} needs zstd: pip install 'hybrid-infer[zstd]'",
            argument="bundle",
        ) from None
    return zstd
