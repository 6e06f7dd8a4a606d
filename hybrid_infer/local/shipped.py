"""Only architectures whose classes come with transformers are computed: a repository's code never runs."""

from __future__ import annotations

from pathlib import Path

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.foreign import check_no_pickles
from hybrid_infer.snapshots.reading import read_mapping


def check_shipped(path: Path) -> None:
    """Refuse a snapshot of another architecture, or with a pickle in it. Imports transformers.

    Raises:
        ModelIntegrityError: config.json names one that transformers does not have, or a pickle
            lies where one could be loaded.
    """
    check_no_pickles(path)
    from transformers import CONFIG_MAPPING

    model_type = read_mapping(path / "config.json").get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelIntegrityError(
            f"{path / 'config.json'} names the model_type {model_type!r}, which transformers does "
            "not have; the code of a repository is never run"
        )
