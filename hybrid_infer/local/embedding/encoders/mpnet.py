"""MPNet over packed tokens (Song et al. 2020; names as in the published checkpoints)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hybrid_infer.local.embedding.attention import RelativeBias
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.embedding.encoders.postnorm import Names, load_stack
from hybrid_infer.local.weights import Weights

_NAMES = Names(
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    output="attention.attn.o",
    norm="attention.LayerNorm",
)
PADDING_ID = 1  # fixed in the architecture: positions are counted over other ids, from 2 on


def supports(config: dict[str, Any]) -> bool:
    """Whether this code computes what the configuration asks for."""
    return config.get("hidden_act") == "gelu"


class MPNet:
    """The encoder's trunk.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    is_recordable = False  # its attention has as many buckets as a batch happens to need

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        weights.strip("mpnet.")
        self.device = weights.device
        relative = RelativeBias(
            weights("encoder.relative_attention_bias.weight"),
            num_buckets=config.get("relative_attention_num_buckets", 32),
        )
        positions = weights("embeddings.position_embeddings.weight")
        self._stack = load_stack(weights, config, _NAMES, positions, relative, PADDING_ID)
        self.means = self._stack.means

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        return self._stack(packed)
