"""A model's config.json, with what transformers takes for the keys that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_infer.snapshots.reading import read_mapping

_POST_NORM: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
# Of those architectures that are computed without transformers.
DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": {**_POST_NORM, "is_decoder": False},
    "mpnet": {**_POST_NORM, "relative_attention_num_buckets": 32},
    "t5": {
        "d_model": 512,
        "num_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
}


def model_config(path: Path) -> dict[str, Any]:
    """A snapshot's config.json; what it leaves out is there for some architectures.

    Raises:
        ModelIntegrityError: see `read_mapping`.
    """
    stated = read_mapping(path / "config.json")
    return {**DEFAULTS.get(str(stated.get("model_type")), {}), **stated}
