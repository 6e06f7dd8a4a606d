"""What sentence-transformers keeps beside a transformer: its limit, and options of its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_infer.snapshots.reading import read_optional

# Where sentence-transformers looks, in its order.
_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def sentence_config(path: Path) -> dict[str, Any]:
    """The first of those files that says anything; else empty.

    Raises:
        ModelIntegrityError: one is damaged.
    """
    return next(filter(None, (read_optional(path / name) for name in _FILES)), {})


def tokenizer_options(path: Path) -> dict[str, Any]:
    """tokenizer_config.json, and what is put over it where sentence-transformers makes the tokenizer.

    Raises:
        ModelIntegrityError: a file is damaged.
    """
    return {**read_optional(path / "tokenizer_config.json"), **tokenizer_arguments(path)}


def tokenizer_arguments(path: Path) -> dict[str, Any]:
    """Only the latter; under their old name they come before those under the new one.

    Raises:
        ModelIntegrityError: a file is damaged.
    """
    config = sentence_config(path)
    arguments = config.get("tokenizer_args", config.get("processor_kwargs"))
    return arguments if isinstance(arguments, dict) else {}
