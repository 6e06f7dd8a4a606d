"""Llama and Phi-3 over a shared cache (Touvron et al. 2023; Abdin et al. 2024; names as published)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.generation.cache import KvCache, Share
from hybrid_infer.local.generation.decoders import Piece
from hybrid_infer.local.generation.decoders.shape import Shape, angles
from hybrid_infer.local.varlen import has_varlen, varlen_attention
from hybrid_infer.local.weights import Weights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Llama:
    """A decoder of the Llama family, in torch's operators.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    mixes = False
    reads_whole = False

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        self.device, dtype = weights.device, weights.dtype
        shape = self._shape = Shape.of(config)
        self._repeats = shape.num_heads // shape.num_kv_heads
        self._has_varlen = has_varlen(self.device, dtype, shape.head_dim)
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

    def prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """See `Decoder.prefill`."""
        ids = torch.tensor([token for piece in pieces for token in piece.ids], device=self.device)
        edges = list(accumulate((len(piece.ids) for piece in pieces), initial=0))
        positions = torch.cat(
            [
                torch.arange(piece.start, piece.start + len(piece.ids), device=self.device)
                for piece in pieces
            ]
        )
        stores = self.cache.stores(pieces)
        mix = self._mixer(pieces, edges)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            for store in stores:
                store.write(layer, key, value)
            return mix(layer, query, key, value)

        hidden = self._hidden(ids, positions, attend)
        return self._logits(hidden[torch.tensor(edges[1:], device=self.device) - 1])

    def _mixer(self, pieces: Sequence[Piece], edges: Sequence[int]) -> Attend:
        """How the tokens of pieces, which lie between `edges`, attend; the cache holds them already."""
        longest = max(len(piece.ids) for piece in pieces)
        is_plain = longest <= self._shape.window and not any(piece.start for piece in pieces)
        if is_plain and self._has_varlen:
            ends = torch.tensor(edges, dtype=torch.int32, device=self.device)

            def mix(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                keys, values = (x.repeat_interleave(self._repeats, dim=1) for x in (key, value))
                return varlen_attention(query, keys, values, ends, longest, is_causal=True)

            return mix
        masks = [self._prompt_mask(piece) for piece in pieces]

        def mix_each(layer: int, query: Tensor, _: Tensor, __: Tensor) -> Tensor:
            mixed = torch.empty_like(query)
            for piece, mask, first, end in zip(pieces, masks, edges[:-1], edges[1:], strict=True):
                mixed[first:end] = self._attend_piece(piece, layer, query[first:end], mask)
            return mixed

        return mix_each

    def _prompt_mask(self, piece: Piece) -> Tensor | None:
        """Which keys each token of a piece sees; None if it is all before it, and nothing before."""
        start, count = piece.start, len(piece.ids)
        if not start and count <= self._shape.window:
            return None
        mask = torch.ones((count, start + count), dtype=torch.bool, device=self.device)
        return mask.tril_(diagonal=start).triu_(diagonal=start - self._shape.window + 1)

    def _attend_piece(self, piece: Piece, layer: int, query: Tensor, mask: Tensor | None) -> Tensor:
        end = piece.start + len(piece.ids)
        keys, values = self.cache.row(piece.row)[layer]
        mixed = functional.scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys[None, :, :end].repeat_interleave(self._repeats, dim=1),
            values[None, :, :end].repeat_interleave(self._repeats, dim=1),
            attn_mask=mask,
            is_causal=mask is None,
        )
        return mixed[0].transpose(0, 1)

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        shares = self.cache.shares(lengths, rows, self._shape.window)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if shares[0].order is None:
                return self._attend(shares[0], layer, query, key, value)
            mixed = torch.empty_like(query)
            for share in shares:
                part = (x[share.order] for x in (query, key, value))
                mixed[share.order] = self._attend(share, layer, *part)
            return mixed

        ids, positions = torch.tensor((tokens, lengths), device=self.device)
        return self._logits(self._hidden(ids, positions, attend))

    def _attend(
        self, share: Share, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        return self._attend_newest(query, share.write(layer, key, value), share.mask)

    def _attend_newest(self, query: Tensor, held: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Attention of each row's newest token to all keys and values of that row."""
        keys, values = held
        # The query heads of one key head attend as if they were several tokens: no copies.
        grouped = query.view(len(query), self._shape.num_kv_heads, -1, self._shape.head_dim)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, mask)
        return mixed.reshape(query.shape)

    def _hidden(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        shape = self._shape
        x = self._words[ids]
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
        self.qkv = weights.layer_linear(*(attention + part for part in shape.qkv))
        self.output = weights.layer_linear(f"{attention}o_proj")
        self.gate_up = weights.layer_linear(*(mlp + part for part in shape.gate_up))
        self.down = weights.layer_linear(f"{mlp}down_proj")
        self.input_norm = weights(f"{name}input_layernorm.weight")
        self.output_norm = weights(f"{name}post_attention_layernorm.weight")


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021), halves of a head as the pairs; the first sines are negative."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cosines, torch.cat((second, first), dim=-1), sines)
