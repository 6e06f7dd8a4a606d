"""What would have a loader run code, follow another model, or read a file that nobody compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.modules import Modules
from hybrid_infer.snapshots.reading import read_mapping

# Each may name a repository of kernels, as "owner/name".
_IMPLEMENTATION_KEYS = frozenset(
    {
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
    }
)
# Where transformers looks for the weights instead (``PreTrainedModel.from_pretrained``).
_WEIGHTS_KEYS = frozenset({"transformers_weights", "gguf_file", "variant", "adapter_kwargs"})
_OWN_WEIGHTS = (None, "model.safetensors", "model.safetensors.index.json")
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})


def check_foreign(folder: Path, modules: Modules) -> None:
    """Refuse a configuration that would have a loader fetch code, or take other weights.

    Args:
        folder: the snapshot's.
        modules: its modules, each of which may be configured in a folder of its own.

    Raises:
        ModelIntegrityError: one does; the message names file and key.
    """
    for place in sorted({folder, *(folder / path for _, path in modules)}):
        if (place / "adapter_config.json").exists():
            raise ModelIntegrityError(
                f"{place / 'adapter_config.json'} would change the model by another one's files"
            )
        for file in sorted({*place.glob("config.json"), *place.glob("sentence_*_config.json")}):
            for key, value in _settings_of(read_mapping(file)):
                _check_setting(file, key, value)


def _settings_of(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key at every depth: a configuration holds those of its parts."""
    left: list[Any] = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _check_setting(file: Path, key: str, value: Any) -> None:
    if key in _IMPLEMENTATION_KEYS and "/" in str(value or ""):
        raise ModelIntegrityError(f"{file} names {value!r} as {key}: code that is not here")
    if key in _WEIGHTS_KEYS and value not in _OWN_WEIGHTS:
        raise ModelIntegrityError(
            f"{file} names {value!r} as {key}: the weights are those of model.safetensors"
        )


def check_no_pickles(folder: Path) -> None:
    """Refuse a pickle anywhere below a snapshot that a library not our own is to load.

    ``pytorch_model*.bin`` may lie beside the safetensors of the same weights: every loader takes
    those then.

    Raises:
        ModelIntegrityError: there is one; the message names it.
    """
    for base, _, names in os.walk(folder):
        safe = not {"model.safetensors", "model.safetensors.index.json"}.isdisjoint(names)
        for name in sorted(names):
            passed_over = safe and name.startswith("pytorch_model") and name.endswith(".bin")
            if Path(name).suffix.lower() in _PICKLES and not passed_over:
                raise ModelIntegrityError(
                    f"{Path(base, name)} is a pickle, which is never loaded; remove it"
                )
