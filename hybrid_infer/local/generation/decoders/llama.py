"""Llama and Phi-3 over a shared cache (Touvron et al. 2023; Abdin et al. 2024; names as published)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.generation.cache import KvCache, Share
from hybrid_infer.local.generation.decoders.shape import Shape, angles
from hybrid_infer.local.weights import Weights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Llama:
    """A decoder of the Llama family, in torch's operators.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        self.device, dtype = weights.device, weights.dtype
        shape = self._shape = Shape.of(config)
        self._words = weights("model.embed_tokens.weight")
        self._layers = [
            _Layer(weights, shape, f"model.layers.{number}.") for number in range(shape.num_layers)
        ]
        self._norm = weights("model.norm.weight")
        head = "model.embed_tokens" if shape.is_tied else "lm_head"
        self._head = weights.linear(head, bias=False)
        cosines, sines = angles(config, shape.head_dim)
        self._cosines = torch.cat((cosines, cosines), dim=-1).to(self.device)
        self._sines = torch.cat((-sines, sines), dim=-1).to(self.device)
        self.cache = KvCache(
            shape.num_layers, shape.num_kv_heads, shape.head_dim, self.device, dtype
        )

    def prefill(self, row: int, start: int, ids: list[int]) -> Tensor:
        """See `Decoder.prefill`."""
        end = start + len(ids)
        cached = self.cache.row(row)
        repeats = self._shape.num_heads // self._shape.num_kv_heads
        mask = None
        if start:
            shape = (len(ids), end)
            mask = torch.ones(shape, dtype=torch.bool, device=self.device).tril_(diagonal=start)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cached[layer]
            keys[:, start:end], values[:, start:end] = key.transpose(0, 1), value.transpose(0, 1)
            mixed = functional.scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                keys[None, :, :end].repeat_interleave(repeats, dim=1),
                values[None, :, :end].repeat_interleave(repeats, dim=1),
                attn_mask=mask,
                is_causal=mask is None,
            )
            return mixed[0].transpose(0, 1)

        positions = torch.arange(start, end, device=self.device)
        return self._logits(self._hidden(ids, positions, attend)[-1:])

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        shares = self.cache.shares(lengths, rows)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if shares[0].order is None:
                return self._attend(shares[0], layer, query, key, value)
            mixed = torch.empty_like(query)
            for share in shares:
                part = (x[share.order] for x in (query, key, value))
                mixed[share.order] = self._attend(share, layer, *part)
            return mixed

        positions = torch.tensor(lengths, device=self.device)
        return self._logits(self._hidden(tokens, positions, attend))

    def _attend(
        self, share: Share, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        keys, values = share.write(layer, key, value)
        # The query heads of one key head attend as if they were several tokens: no copies.
        grouped = query.view(len(query), self._shape.num_kv_heads, -1, self._shape.head_dim)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, share.mask)
        return mixed.view(query.shape)

    def _hidden(self, ids: list[int], positions: Tensor, attend: Attend) -> Tensor:
        shape = self._shape
        x = self._words[torch.tensor(ids, device=self.device)]
        cosines, sines = (
            table[positions][:, None].to(x.dtype) for table in (self._cosines, self._sines)
        )
        num_rotated = shape.num_heads + shape.num_kv_heads
        split = (len(ids), num_rotated + shape.num_kv_heads, shape.head_dim)
        for number, layer in enumerate(self._layers):
            heads = layer.qkv(self._normed(x, layer.input_norm)).view(split)
            rotated = _rotated(heads[:, :num_rotated], cosines, sines)
            query, key = rotated[:, : shape.num_heads], rotated[:, shape.num_heads :]
            mixed = attend(number, query, key, heads[:, num_rotated:])
            x = layer.output.add(mixed.reshape(len(ids), -1), x)
            gate, up = layer.gate_up(self._normed(x, layer.output_norm)).chunk(2, dim=-1)
            x = layer.down.add(functional.silu(gate).mul_(up), x)
        return x

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self._shape.epsilon)

    def _logits(self, x: Tensor) -> Tensor:
        return self._head(self._normed(x, self._norm)).float()


class _Layer:
    """The weights of one layer."""

    def __init__(self, weights: Weights, shape: Shape, name: str) -> None:
        attention, mlp = f"{name}self_attn.", f"{name}mlp."
        self.qkv = weights.linear(*(attention + part for part in shape.qkv), bias=False)
        self.output = weights.linear(f"{attention}o_proj", bias=False)
        self.gate_up = weights.linear(*(mlp + part for part in shape.gate_up), bias=False)
        self.down = weights.linear(f"{mlp}down_proj", bias=False)
        self.input_norm = weights(f"{name}input_layernorm.weight")
        self.output_norm = weights(f"{name}post_attention_layernorm.weight")


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021), halves of a head as the pairs; the first sines are negative."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cosines, torch.cat((second, first), dim=-1), sines)
