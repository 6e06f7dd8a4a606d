"""Llama and Phi-3 over a shared cache (Touvron et al. 2023; Abdin et al. 2024; names as published).

Both are the same network: Phi-3's checkpoints have the projections fused already, Llama's are fused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.generation.cache import KvCache
from hybrid_infer.local.weights import Weights

_PLACES_STEP = 32  # attention kernels are compiled for each length that they meet

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def supports(config: dict[str, Any]) -> bool:
    """Whether this code computes what the configuration asks for."""
    rope = _rope(config)
    window = config.get("sliding_window")
    return (
        config.get("model_type") in ("llama", "phi3")
        and config.get("hidden_act") == "silu"
        and not config.get("attention_bias")
        and not config.get("mlp_bias")
        and rope["rope_type"] in ("default", "llama3")
        and rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) == 1.0
        and (window is None or window >= config["max_position_embeddings"])
    )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary embedding's parameters, in the spelling of either generation of checkpoints."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta") or 10_000.0)
    return rope


class Llama:
    """A decoder of the Llama family.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        self.device, dtype = weights.device, weights.dtype
        self._num_heads = config["num_attention_heads"]
        self._num_kv_heads = config.get("num_key_value_heads") or self._num_heads
        width = config["hidden_size"]
        self._head_dim = config.get("head_dim") or width // self._num_heads
        self._epsilon = config["rms_norm_eps"]
        self._words = weights("model.embed_tokens.weight")
        is_fused = config["model_type"] == "phi3"
        self._layers = [
            _Layer(weights, f"model.layers.{number}.", is_fused=is_fused)
            for number in range(config["num_hidden_layers"])
        ]
        self._norm = weights("model.norm.weight")
        is_tied = config.get("tie_word_embeddings", False)
        self._head = weights.linear("model.embed_tokens" if is_tied else "lm_head", bias=False)
        self._angles = _angles(config, self._head_dim, self.device)
        self.cache = KvCache(
            len(self._layers), self._num_kv_heads, self._head_dim, self.device, dtype
        )

    def prefill(self, row: int, start: int, ids: list[int]) -> Tensor:
        """See `Decoder.prefill`."""
        end = start + len(ids)
        places = slice(start, end)
        repeats = self._num_heads // self._num_kv_heads
        mask = None
        if start:
            shape = (len(ids), end)
            mask = torch.ones(shape, dtype=torch.bool, device=self.device).tril_(diagonal=start)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.cache.data[layer, :, row]
            keys[:, places], values[:, places] = key.transpose(0, 1), value.transpose(0, 1)
            mixed = functional.scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                keys[None, :, :end].repeat_interleave(repeats, dim=1),
                values[None, :, :end].repeat_interleave(repeats, dim=1),
                attn_mask=mask,
                is_causal=mask is None,
            )
            return mixed[0].transpose(0, 1)

        tokens = torch.tensor(ids, device=self.device)
        positions = torch.arange(start, end, device=self.device)
        return self._logits(self._hidden(tokens, positions, attend)[-1:])

    def decode(self, tokens: list[int], lengths: list[int], first: int = 0) -> Tensor:
        """See `Decoder.decode`."""
        rows = len(tokens)
        positions = torch.tensor(lengths, device=self.device)
        places = min(-(-(max(lengths) + 1) // _PLACES_STEP) * _PLACES_STEP, self.cache.places)
        seen = torch.arange(places, device=self.device) <= positions[:, None]
        mask = torch.zeros(seen.shape, dtype=self._words.dtype, device=self.device)
        mask.masked_fill_(~seen, -math.inf)
        mask = mask[:, None, None]
        index = torch.arange(rows, device=self.device)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.cache.data[layer, :, first : first + rows]
            keys[index, :, positions], values[index, :, positions] = key, value
            # The query heads of one key head attend as if they were several tokens: no copies.
            mixed = functional.scaled_dot_product_attention(
                query.view(rows, self._num_kv_heads, -1, self._head_dim),
                keys[:, :, :places],
                values[:, :, :places],
                attn_mask=mask,
            )
            return mixed.view(rows, self._num_heads, self._head_dim)

        x = self._hidden(torch.tensor(tokens, device=self.device), positions, attend)
        return self._logits(x)

    def _hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        x = self._words[tokens]
        cosines, sines = (table[positions][:, None].to(x.dtype) for table in self._angles)
        num_rotated = self._num_heads + self._num_kv_heads
        shape = (len(tokens), num_rotated + self._num_kv_heads, self._head_dim)
        for number, layer in enumerate(self._layers):
            heads = layer.qkv(self._normed(x, layer.input_norm)).view(shape)
            rotated = _rotated(heads[:, :num_rotated], cosines, sines)
            query, key = rotated[:, : self._num_heads], rotated[:, self._num_heads :]
            mixed = attend(number, query, key, heads[:, num_rotated:])
            x = layer.output.add(mixed.reshape(len(tokens), -1), x)
            gate, up = layer.gate_up(self._normed(x, layer.output_norm)).chunk(2, dim=-1)
            x = layer.down.add(functional.silu(gate).mul_(up), x)
        return x

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self._epsilon)

    def _logits(self, x: Tensor) -> Tensor:
        return self._head(self._normed(x, self._norm)).float()


class _Layer:
    """The weights of one layer."""

    def __init__(self, weights: Weights, name: str, *, is_fused: bool) -> None:
        attention, mlp = f"{name}self_attn.", f"{name}mlp."
        qkv = ("qkv_proj",) if is_fused else ("q_proj", "k_proj", "v_proj")
        gate_up = ("gate_up_proj",) if is_fused else ("gate_proj", "up_proj")
        self.qkv = weights.layer_linear(*(attention + part for part in qkv))
        self.output = weights.layer_linear(f"{attention}o_proj")
        self.gate_up = weights.layer_linear(*(mlp + part for part in gate_up))
        self.down = weights.layer_linear(f"{mlp}down_proj")
        self.input_norm = weights(f"{name}input_layernorm.weight")
        self.output_norm = weights(f"{name}post_attention_layernorm.weight")


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021), halves of a head as the pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


def _angles(config: dict[str, Any], head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, ``(positions, head_dim)``, float32."""
    rope = _rope(config)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / rope["rope_theta"] ** exponents
    if rope["rope_type"] == "llama3":
        frequencies = _stretched(frequencies, rope)
    positions = torch.arange(config["max_position_embeddings"]).float()
    angles = torch.outer(positions, frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(device), angles.sin().to(device)


def _stretched(frequencies: Tensor, rope: dict[str, Any]) -> Tensor:
    """Llama 3.1's longer window: low frequencies are slowed down, with a smooth passage."""
    factor = rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    slowed: Tensor = frequencies * (share + (1 - share) / factor)
    return slowed
