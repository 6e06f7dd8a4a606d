"""T5's encoder over packed tokens (Raffel et al. 2020; names as in the published checkpoints)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.embedding.attention import (
    Masks,
    RelativeBias,
    attention_masks,
    packed_attention,
)
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.weights import Weights

_FEED_FORWARDS = ("relu", "gated-gelu")


def supports(config: dict[str, Any]) -> bool:
    """Whether this code computes what the configuration asks for."""
    return config.get("feed_forward_proj", "relu") in _FEED_FORWARDS


class RMSNorm:
    """A norm without mean and bias, computed in float32.

    Args:
        weight: ``(width,)``.
        epsilon: added to the mean square.
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self._weight, self._epsilon = weight, epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._epsilon)
        return self._weight * wide.to(self._weight.dtype)


class _Layer:
    """Norm, attention, add; norm, feed forward, add."""

    def __init__(self, weights: Weights, number: int, config: dict[str, Any]) -> None:
        epsilon = config.get("layer_norm_epsilon", 1e-6)
        attention, feed = (f"encoder.block.{number}.layer.{part}." for part in (0, 1))
        names = [f"{attention}SelfAttention.{part}" for part in "qkv"]
        self._num_heads = config["num_heads"]
        self._attention_norm = RMSNorm(weights(f"{attention}layer_norm.weight"), epsilon)
        self._qkv = weights.linear(*names, bias=False)
        self._output = weights.linear(f"{attention}SelfAttention.o", bias=False)
        self._feed_norm = RMSNorm(weights(f"{feed}layer_norm.weight"), epsilon)
        dense = f"{feed}DenseReluDense."
        self._is_gated = config.get("feed_forward_proj", "relu") == "gated-gelu"
        if self._is_gated:
            self._gate = weights.linear(f"{dense}wi_0", bias=False)
            self._up = weights.linear(f"{dense}wi_1", bias=False)
        else:
            self._up = weights.linear(f"{dense}wi", bias=False)
        self._down = weights.linear(f"{dense}wo", bias=False)

    def __call__(self, x: Tensor, packed: Packed, masks: Masks) -> Tensor:
        mixed = packed_attention(
            self._qkv(self._attention_norm(x)),
            packed.buckets,
            masks,
            num_heads=self._num_heads,
            scale=1.0,  # T5 folds the scale into its initialisation
        )
        x = self._output.add(mixed, x)
        normed = self._feed_norm(x)
        if self._is_gated:
            # "gelu_new", the tanh approximation, is what the gated checkpoints were trained with.
            inner = functional.gelu(self._gate(normed), approximate="tanh") * self._up(normed)
        else:
            inner = functional.relu(self._up(normed))
        return self._down.add(inner, x)


class T5:
    """The encoder's trunk.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    is_recordable = False  # its attention has as many buckets as a batch happens to need
    means = None

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        self.device = weights.device
        # An encoder alone may have it under the name of its own, which is tied to the other.
        own, shared = "encoder.embed_tokens.weight", "shared.weight"
        self._words = weights(own if own in weights and shared not in weights else shared)
        self._bias = RelativeBias(
            weights("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            num_buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
        )
        self._layers = [_Layer(weights, number, config) for number in range(config["num_layers"])]
        self._norm = RMSNorm(
            weights("encoder.final_layer_norm.weight"), config.get("layer_norm_epsilon", 1e-6)
        )

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        x = self._words[packed.ids]
        masks = attention_masks(packed.buckets, x.dtype, self._bias(packed.longest_bucket))
        for layer in self._layers:
            x = layer(x, packed, masks)
        return self._norm(x)
