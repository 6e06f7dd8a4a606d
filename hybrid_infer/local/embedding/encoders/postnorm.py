"""The layer that BERT and MPNet share: attention, add, norm; feed forward, add, norm."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.embedding.attention import Masks, packed_attention
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.weights import Weights


class Norm:
    """A LayerNorm.

    Args:
        weights: where its weight and bias are.
        name: their common name.
        epsilon: added to the variance.
    """

    def __init__(self, weights: Weights, name: str, epsilon: float) -> None:
        self._weight, self._bias = weights(f"{name}.weight"), weights(f"{name}.bias")
        self._epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return functional.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._epsilon)


class PostNormLayer:
    """One transformer layer over packed tokens.

    Args:
        weights: the model's weights.
        layer: the layer's name, with its dot.
        qkv: the names of the query, key and value projections.
        output: the name of the projection behind them.
        norm: the name of the norm behind the attention.
        config: the model's config.json.
    """

    def __init__(
        self,
        weights: Weights,
        layer: str,
        qkv: tuple[str, str, str],
        output: str,
        norm: str,
        config: dict[str, Any],
    ) -> None:
        epsilon = config["layer_norm_eps"]
        self._num_heads = config["num_attention_heads"]
        self._scale = float((config["hidden_size"] // self._num_heads) ** -0.5)
        self._qkv = weights.linear(*(layer + name for name in qkv))
        self._output = weights.linear(layer + output)
        self._attention_norm = Norm(weights, layer + norm, epsilon)
        self._up = weights.linear(f"{layer}intermediate.dense", gelu=True)
        self._down = weights.linear(f"{layer}output.dense")
        self._output_norm = Norm(weights, f"{layer}output.LayerNorm", epsilon)

    def __call__(self, x: Tensor, packed: Packed, masks: Masks) -> Tensor:
        """Apply to ``(tokens, width)``."""
        mixed = packed_attention(
            self._qkv(x), packed.buckets, masks, num_heads=self._num_heads, scale=self._scale
        )
        x = self._attention_norm(self._output.add(mixed, x))
        return self._output_norm(self._down.add(self._up(x), x))
