"""A snapshot's safetensors files, judged by their headers: cheap, and no tensor is read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.reading import as_whole, looks_like, read_mapping
from hybrid_infer.snapshots.selection import is_allowed

MAX_HEADER_BYTES = 100 * 1024 * 1024  # the safetensors format's own bound
LENGTH_BYTES = 8


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a snapshot's main model, in order.

    Raises:
        ModelIntegrityError: there are none, or a shard is missing.
    """
    index = path / "model.safetensors.index.json"
    if index.exists():
        return [path / name for name in _shards(index)]
    return [safetensors_file(path)]


def _shards(index: Path) -> list[str]:
    placed = read_mapping(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelIntegrityError(f"{index} names no shards")
    names = set(placed.values()) if all(isinstance(n, str) for n in placed.values()) else {""}
    for name in sorted(names):
        if not name or Path(name).name != name:
            raise ModelIntegrityError(f"{index} names the shard {name!r}, which is no file name")
        if not name.endswith(".safetensors") or not is_allowed(name):
            raise ModelIntegrityError(f"{index} names the shard {name!r}, which is never loaded")
        if not (index.parent / name).exists():
            raise ModelIntegrityError(f"{index.parent} lacks {name}")
    return sorted(names)


def safetensors_file(folder: Path) -> Path:
    """``model.safetensors`` of one folder.

    Raises:
        ModelIntegrityError: it is not there; a pickle in its place is named.
    """
    single = folder / "model.safetensors"
    if single.exists():
        return single
    unsafe = sorted(folder.glob("*.bin"))
    hint = f"; {unsafe[0].name} is a pickle and is never loaded" if unsafe else ""
    raise ModelIntegrityError(f"{folder} has no model.safetensors{hint}")


def safetensors_header(path: Path) -> dict[str, Any]:
    """The tensors that a safetensors file lists; the file's size must be what they add up to.

    The format is eight bytes of little-endian length, that much JSON, then the tensors
    (github.com/huggingface/safetensors, "Format").

    Raises:
        ModelIntegrityError: it is something else: truncated, HTML, a Git LFS pointer, empty.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else -1
            if not 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
                raise ModelIntegrityError(f"{path} is not a safetensors file{looks_like(path)}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelIntegrityError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ModelIntegrityError(f"{path} has a damaged header")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not all(_is_tensor(entry) for entry in tensors.values()):
        raise ModelIntegrityError(f"{path} has a damaged header")
    end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if size != LENGTH_BYTES + length + end:
        raise ModelIntegrityError(
            f"{path} has {size:,} bytes and should have {LENGTH_BYTES + length + end:,}: it is "
            "truncated or was overwritten"
        )
    return tensors


def _is_tensor(entry: Any) -> bool:
    """Whether a header's entry has a dtype and two offsets in order."""
    match entry:
        case {"dtype": str(), "data_offsets": [begin, end]}:
            return as_whole(begin) is not None and as_whole(end) is not None and 0 <= begin <= end
    return False
