"""What a GGUF file says of itself: its metadata and the types of its tensors; no tensor is read.

The format (ggml-org/ggml, ``docs/gguf.md``): magic, version, two counts, key-value pairs, a list of
tensors, then the tensors. Numbers are little-endian; a string is eight bytes of length and UTF-8.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.reading import looks_like

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # of the tensors, unless general.alignment says another
_STRING, _ARRAY = 8, 9
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
# ggml_type of ggml.h, by number; a dash for what was removed, and what is missing is too new.
_TYPE_NAMES = """
F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K
IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 -
- - TQ1_0 TQ2_0 - - - MXFP4 NVFP4
"""
_TYPES = dict(enumerate(_TYPE_NAMES.split()))
UNQUANTIZED = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of one file.

    Attributes:
        metadata: the values that are no arrays, by key.
        type_bytes: bytes of all tensors of each type, by the type's name in ggml.
    """

    metadata: dict[str, Any]
    type_bytes: dict[str, int]

    def architecture_value(self, key: str) -> int | None:
        """A whole number that is named after the architecture, such as ``llama.context_length``."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        return value if isinstance(value, int) else None


def gguf_header(path: Path) -> GgufHeader:
    """The header of `path`; remembered until the file changes.

    Raises:
        ModelIntegrityError: it is not there, is no GGUF file, or is damaged.
    """
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelIntegrityError(f"{path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=32)
def _read(path: Path, size: int, _changed_ns: int) -> GgufHeader:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelIntegrityError(f"{path} is not a GGUF file{looks_like(path)}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _parsed(path, _Cursor(data), size)
            except (struct.error, UnicodeDecodeError, KeyError, RecursionError, OverflowError):
                raise ModelIntegrityError(f"{path} has a damaged header") from None


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = len(_MAGIC)

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self._data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("Q")
        if length > len(self._data) - self.at:
            raise struct.error
        self.at += length
        return self._data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        """A metadata value; an array is passed over, and gives None."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            self._skip_texts(count)
        elif kind == _ARRAY:
            for _ in range(count):
                self.value(_ARRAY)
        else:
            self.at += count * struct.calcsize(_SCALARS[kind])
        return None

    def _skip_texts(self, count: int) -> None:
        """Pass over a whole vocabulary: hundreds of thousands of strings."""
        unpack, data, at = struct.Struct("<Q").unpack_from, self._data, self.at
        for _ in range(count):
            at += unpack(data, at)[0] + 8
        self.at = at


def _parsed(path: Path, cursor: _Cursor, size: int) -> GgufHeader:
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise ModelIntegrityError(f"{path} is GGUF of version {version}; versions 2 and 3 are read")
    num_tensors, num_values = cursor.number("Q"), cursor.number("Q")
    metadata = {}
    for _ in range(num_values):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("I"))
    if metadata.get("split.count", 1) not in {0, 1}:  # llama.cpp opens the others by their names
        raise ModelIntegrityError(
            f"{path} is one of several parts; join them with llama-gguf-split --merge"
        )
    tensors = []
    for _ in range(num_tensors):
        cursor.text()
        for _ in range(cursor.number("I")):
            cursor.number("Q")
        kind, offset = cursor.number("I"), cursor.number("Q")
        tensors.append((offset, _TYPES.get(kind, f"type {kind}")))
    alignment = metadata.get("general.alignment") or _ALIGNMENT
    length = size - -(-cursor.at // alignment) * alignment
    return GgufHeader(metadata, _type_bytes(path, sorted(tensors), length))


def _type_bytes(path: Path, tensors: list[tuple[int, str]], length: int) -> dict[str, int]:
    """Bytes by type: each tensor ends where the next begins, and the last where the file does."""
    if not tensors or tensors[-1][0] >= length:
        raise ModelIntegrityError(f"{path} is truncated")
    sizes: Counter[str] = Counter()
    ends = [offset for offset, _ in tensors[1:]] + [length]
    for (offset, kind), end in zip(tensors, ends, strict=True):
        sizes[kind] += end - offset
    return dict(sizes)
