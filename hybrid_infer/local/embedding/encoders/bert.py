"""BERT over packed tokens (Devlin et al. 2019; names as in the published checkpoints)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.embedding.encoders.postnorm import Names, load_stack
from hybrid_infer.local.weights import Weights

_NAMES = Names(
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    output="attention.output.dense",
    norm="attention.output.LayerNorm",
)


def supports(config: dict[str, Any]) -> bool:
    """Whether this code computes what the configuration asks for."""
    return (
        config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
    )


class Bert:
    """The encoder's trunk.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        weights.strip("bert.")
        self.device = weights.device
        # A text is one segment, so its type's row is the same for every token.
        positions = (
            weights("embeddings.position_embeddings.weight")
            + weights("embeddings.token_type_embeddings.weight")[0]
        )
        self._stack = load_stack(weights, config, _NAMES, positions)
        self.is_recordable = self._stack.is_recordable
        self.means = self._stack.means

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        return self._stack(packed)
