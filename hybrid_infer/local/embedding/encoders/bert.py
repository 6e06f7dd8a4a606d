"""BERT over packed tokens (Devlin et al. 2019; names as in the published checkpoints)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hybrid_infer.local.embedding.attention import attention_masks
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.embedding.encoders.postnorm import Norm, PostNormLayer
from hybrid_infer.local.weights import Weights

_QKV = ("attention.self.query", "attention.self.key", "attention.self.value")


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
        self._words = weights("embeddings.word_embeddings.weight")
        # A text is one segment, so its type's row is the same for every token.
        self._positions = (
            weights("embeddings.position_embeddings.weight")
            + weights("embeddings.token_type_embeddings.weight")[0]
        )
        self._norm = Norm(weights, "embeddings.LayerNorm", config["layer_norm_eps"])
        self._layers = [
            PostNormLayer(
                weights,
                f"encoder.layer.{number}.",
                _QKV,
                "attention.output.dense",
                "attention.output.LayerNorm",
                config,
            )
            for number in range(config["num_hidden_layers"])
        ]

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        x = self._norm(self._words[packed.ids] + self._positions[packed.positions])
        masks = attention_masks(packed.buckets, x.dtype)
        for layer in self._layers:
            x = layer(x, packed, masks)
        return x
