"""JSON files of a snapshot, read with suspicion: they come from a network or a user's disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ModelIntegrityError

# A pickle of protocol 2 to 5, and the archive that torch.save wraps around one.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
MAX_JSON_BYTES = 64 * 1024 * 1024


def read_json(path: Path) -> Any:
    """The JSON of one file of a snapshot.

    Raises:
        ModelIntegrityError: missing, too large, or not JSON; the message names the file.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelIntegrityError(f"{path} is too large to be a configuration")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelIntegrityError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelIntegrityError(f"{path} is not valid JSON{looks_like(path)}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The JSON object of one file.

    Raises:
        ModelIntegrityError: see `read_json`; or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelIntegrityError(f"{path} must hold a JSON object")
    return value


def read_optional(path: Path) -> dict[str, Any]:
    """Like `read_mapping`; a file that is not there is an empty object."""
    return read_mapping(path) if path.exists() else {}


def looks_like(path: Path) -> str:
    """What a file that should be something else probably is, in parentheses; or nothing."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return " (it is empty)"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer: the real file was not fetched)"
    if start.startswith(_PICKLES):
        return " (it is a pickle, which is never loaded)"
    if start.startswith(b"<"):
        return " (it is an HTML page)"
    return ""


def as_whole(value: Any) -> int | None:
    """`value` if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
