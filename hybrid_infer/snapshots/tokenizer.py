"""The tokenizer of a copy on this machine, without its model and without torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError, ModelNotDownloadedError
from hybrid_infer.snapshots.resolve import find_snapshot

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def find_tokenizer(spec: ModelSpec) -> Tokenizer:
    """The tokenizer of `spec`'s own copy; blocks while it is read, and fetches nothing.

    Raises:
        ModelNotDownloadedError: it is not on this machine.
        ModelIntegrityError: the copy is damaged.
    """
    path = find_snapshot(spec) / "tokenizer.json"
    if not path.is_file():
        raise ModelNotDownloadedError(f"{spec.name}: there is no tokenizer.json in {path.parent}")
    return _whole(path)


@lru_cache(maxsize=8)
def _whole(path: Path) -> Tokenizer:
    tokenizer = read_tokenizer(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of one's own, which may be changed.

    Args:
        path: its tokenizer.json.

    Raises:
        ModelIntegrityError: the file is damaged.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for a damaged file
        raise ModelIntegrityError(f"{path} is damaged: {error}") from None
