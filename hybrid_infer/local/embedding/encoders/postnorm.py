"""What BERT and MPNet share: embed, norm; then layers of attention, add, norm, feed forward, add, norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local import native
from hybrid_infer.local.embedding.attention import (
    RelativeBias,
    attention_masks,
    packed_attention,
)
from hybrid_infer.local.embedding.encoders.packed import Means, Packed
from hybrid_infer.local.varlen import has_varlen, varlen_attention
from hybrid_infer.local.weights import Weights

Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Names:
    """What a family of checkpoints calls the parts of a layer, behind ``encoder.layer.N.``.

    Attributes:
        qkv: the query, key and value projections.
        output: the projection behind them.
        norm: the norm behind the attention.
    """

    qkv: tuple[str, str, str]
    output: str
    norm: str


class Stack(Protocol):
    """Embeddings and layers; several threads may use it.

    Attributes:
        is_recordable: whether it needs nothing of a batch but what a recording has.
    """

    is_recordable: bool

    @property
    def means(self) -> Means | None:
        """See `Trunk.means`."""
        ...

    def __call__(self, packed: Packed) -> Tensor:
        """The last layer's output.

        Returns:
            ``(rows, width)``; what is behind `packed.num_tokens` may be missing.
        """
        ...


def load_stack(
    weights: Weights,
    config: dict[str, Any],
    names: Names,
    positions: Tensor,
    relative: RelativeBias | None = None,
    padding: int | None = None,
) -> Stack:
    """The fastest stack that this machine has for these weights.

    Args:
        weights: the model's.
        config: its config.json.
        names: what its parts are called.
        positions: what is added to each word by its position, ``(positions, width)``.
        relative: what is added to attention scores by distance.
        padding: see `Packed.positions_behind`; None: positions are counted from 0.
    """
    from hybrid_infer.local.embedding.encoders.native_stack import NativeStack, supports

    kernels = native.library()
    if kernels is not None and supports(weights, config):
        return NativeStack(kernels, weights, config, names, positions, relative, padding)
    return TorchStack(weights, config, names, positions, relative, padding)


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


class TorchStack:
    """A stack computed by torch's operators; see `load_stack`."""

    means = None

    def __init__(
        self,
        weights: Weights,
        config: dict[str, Any],
        names: Names,
        positions: Tensor,
        relative: RelativeBias | None,
        padding: int | None,
    ) -> None:
        self._num_heads = config["num_attention_heads"]
        self._head_dim = config["hidden_size"] // self._num_heads
        self.is_recordable = relative is None and has_varlen(
            weights.device, weights.dtype, self._head_dim
        )
        self._padding = padding
        self._words = weights("embeddings.word_embeddings.weight")
        self._positions, self._relative = positions, relative
        self._norm = Norm(weights, "embeddings.LayerNorm", config["layer_norm_eps"])
        self._layers = [
            _Layer(weights, f"encoder.layer.{number}.", names, config)
            for number in range(config["num_hidden_layers"])
        ]

    def __call__(self, packed: Packed) -> Tensor:
        """See `Stack`."""
        positions = packed.positions
        if self._padding is not None:
            positions = packed.positions_behind(self._padding)
        x = self._norm(self._words[packed.ids] + self._positions[positions])
        attend = self._attention(packed, x.dtype)
        for layer in self._layers:
            x = layer(x, attend)
        return x

    def _attention(self, packed: Packed, dtype: torch.dtype) -> Attend:
        if self.is_recordable:
            return partial(self._end_to_end, packed.ends, packed.longest)
        bias = None if self._relative is None else self._relative(packed.longest_bucket)
        return partial(
            packed_attention,
            buckets=packed.buckets,
            masks=attention_masks(packed.buckets, dtype, bias),
            num_heads=self._num_heads,
            scale=float(self._head_dim**-0.5),
        )

    def _end_to_end(self, ends: Tensor, longest: int, qkv: Tensor) -> Tensor:
        query, key, value = qkv.view(len(qkv), 3, self._num_heads, -1).unbind(1)
        mixed = varlen_attention(query, key, value, ends, longest, is_causal=False)
        return mixed.view(len(qkv), -1)


class _Layer:
    """One transformer layer over packed tokens."""

    def __init__(self, weights: Weights, prefix: str, names: Names, config: dict[str, Any]) -> None:
        epsilon = config["layer_norm_eps"]
        self._qkv = weights.linear(*(prefix + name for name in names.qkv))
        self._output = weights.linear(prefix + names.output)
        self._attention_norm = Norm(weights, prefix + names.norm, epsilon)
        self._up = weights.linear(f"{prefix}intermediate.dense", gelu=True)
        self._down = weights.linear(f"{prefix}output.dense")
        self._output_norm = Norm(weights, f"{prefix}output.LayerNorm", epsilon)

    def __call__(self, x: Tensor, attend: Attend) -> Tensor:
        mixed = attend(self._qkv(x))
        x = self._attention_norm(self._output.add(mixed, x))
        return self._output_norm(self._down.add(self._up(x), x))
