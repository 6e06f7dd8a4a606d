"""The sizes and parts of a model of the Llama family, from its config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What transformers has defaults for, which differ by family: a configuration that leaves one out is its.
_STATED = frozenset(
    {"hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads"}
    | {"num_hidden_layers", "rms_norm_eps", "vocab_size"}
)


def supports(config: dict[str, Any]) -> bool:
    """Whether our own decoders compute what the configuration asks for."""
    rope = _rope(config)
    return (
        config.get("model_type") in ("llama", "phi3")
        and config.keys() >= _STATED
        and config.get("hidden_act") == "silu"
        and not config.get("attention_bias")
        and not config.get("mlp_bias")
        and rope["rope_type"] in ("default", "llama3")
        and rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) == 1.0
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of the Llama family.

    Attributes:
        width: length of a token's vector.
        inner: length of what the feed-forward part computes with.
        num_heads: heads of queries.
        num_kv_heads: heads of keys and of values.
        head_dim: length of a head.
        num_layers: layers.
        vocabulary: tokens.
        window: positions that a token sees at most, itself included.
        epsilon: of the norms.
        is_tied: whether the embedding is the output layer, too.
        qkv: the names of an attention's input projections.
        gate_up: the names of a feed-forward part's input projections.
    """

    width: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    vocabulary: int
    window: int
    epsilon: float
    is_tied: bool
    qkv: tuple[str, ...]
    gate_up: tuple[str, ...]

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """Read it from a config.json. Phi-3's checkpoints have projections fused, Llama's have not."""
        is_fused = config["model_type"] == "phi3"
        num_heads, width = config["num_attention_heads"], config["hidden_size"]
        # Llama has none, whatever its configuration says.
        window = config.get("sliding_window") if is_fused else None
        return cls(
            width=width,
            inner=config["intermediate_size"],
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or width // num_heads,
            num_layers=config["num_hidden_layers"],
            vocabulary=config["vocab_size"],
            window=window or config["max_position_embeddings"],
            epsilon=config["rms_norm_eps"],
            is_tied=config.get("tie_word_embeddings", False),
            qkv=("qkv_proj",) if is_fused else ("q_proj", "k_proj", "v_proj"),
            gate_up=("gate_up_proj",) if is_fused else ("gate_proj", "up_proj"),
        )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary embedding's parameters, in the spelling of either generation of checkpoints."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta") or 10_000.0)
    return rope


def angles(config: dict[str, Any], head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, ``(positions, head_dim / 2)``, float32."""
    rope = _rope(config)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / rope["rope_theta"] ** exponents
    if rope["rope_type"] == "llama3":
        frequencies = _stretched(frequencies, rope)
    positions = torch.arange(config["max_position_embeddings"]).float()
    turns = torch.outer(positions, frequencies)
    return turns.cos(), turns.sin()


def _stretched(frequencies: Tensor, rope: dict[str, Any]) -> Tensor:
    """Llama 3.1's longer window: low frequencies are slowed down, with a smooth passage."""
    factor = rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    slowed: Tensor = frequencies * (share + (1 - share) / factor)
    return slowed
