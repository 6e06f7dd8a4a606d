"""The seeded encoders: configurations and tensors of the real architectures, at toy width."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.snapshots import tiny_tokenizers as tokenizers
from hybrid_infer.snapshots.tiny_tokenizers import TinyTokenizer

Json = dict[str, Any]
Array = NDArray[np.float32]

NARROW = 128
LAYERS = 2
MPNET_MIDDLE = 16  # its real width of 768 leaves little of the 25 MB that a tiny model may have
INT8_SPREAD = 73.9  # standard deviation of a uniform signed byte


@dataclass(slots=True)
class TinyModel:
    """Everything a snapshot holds, before it is written.

    Attributes:
        tokenizer: its files.
        files: JSON files by path.
        tensors: tensors by path of the safetensors file, then by name.
    """

    tokenizer: TinyTokenizer
    files: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, dict[str, Array]] = field(default_factory=dict)


class Seeds:
    """Seeded tensors: signed bytes of numpy's Philox, scaled; the same on every machine.

    Args:
        name: the model's name; each tensor's stream is keyed by it and by the tensor's own.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.tensors: dict[str, Array] = {}

    def draw(self, tensor: str, *shape: int, gain: float = 1.0) -> Array:
        """A tensor with standard deviation ``gain / sqrt(last axis)``."""
        count = int(np.prod(shape))
        digest = hashlib.sha256(f"{self._name}/{tensor}".encode()).digest()
        stream = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
        # Raw bits, unlike the drawing methods, are guaranteed to stay the same in every release.
        raw = stream.random_raw(-(-count // 8)).astype("<u8").view(np.int8)[:count]
        scale = np.float32(gain / np.sqrt(shape[-1]) / INT8_SPREAD)
        self.tensors[tensor] = (raw.astype(np.float32) * scale).reshape(shape)
        return self.tensors[tensor]

    def ones(self, tensor: str, width: int) -> None:
        """A norm's weight."""
        self.tensors[tensor] = np.ones(width, np.float32)

    def zeros(self, tensor: str, width: int) -> None:
        """A bias."""
        self.tensors[tensor] = np.zeros(width, np.float32)

    def linear(self, prefix: str, width_out: int, width_in: int, *, gain: float = 1.0) -> None:
        """A linear layer's weight and bias."""
        self.draw(f"{prefix}.weight", width_out, width_in, gain=gain)
        self.zeros(f"{prefix}.bias", width_out)

    def norm(self, prefix: str, width: int) -> None:
        """A LayerNorm's weight and bias."""
        self.ones(f"{prefix}.weight", width)
        self.zeros(f"{prefix}.bias", width)


def _sentence_files(spec: ModelSpec, *, word_dim: int, dense: bool) -> Json:
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    if dense:
        modules.append(("2", "2_Dense", "Dense"))
    modules.append((str(len(modules)), f"{len(modules)}_Normalize", "Normalize"))
    files: Json = {
        "modules.json": [
            {
                "idx": number,
                "name": name,
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, (name, path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {
            "max_seq_length": spec.max_seq_length,
            "do_lower_case": False,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": word_dim,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    if dense:
        files["2_Dense/config.json"] = {
            "in_features": word_dim,
            "out_features": spec.dim,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
    return files


def _encoder_layers(seeds: Seeds, width: int, middle: int, names: tuple[str, str, str]) -> None:
    """The layers that BERT and MPNet share, under their own names for attention."""
    inputs, output, norm = names
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}."
        for part in inputs.split():
            seeds.linear(layer + part, width, width)
        seeds.linear(layer + output, width, width)
        seeds.norm(layer + norm, width)
        seeds.linear(layer + "intermediate.dense", middle, width)
        seeds.linear(layer + "output.dense", width, middle)
        seeds.norm(layer + "output.LayerNorm", width)
    seeds.linear("pooler.dense", width, width)


def _encoder_config(tokenizer: TinyTokenizer, width: int, **more: Any) -> Json:
    return {
        "hidden_size": width,
        "intermediate_size": NARROW,
        "num_attention_heads": 12,
        "num_hidden_layers": LAYERS,
        "hidden_act": "gelu",
        "vocab_size": len(tokenizer.vocabulary),
        "initializer_range": 0.02,
        "dtype": "float32",
        **more,
    }


def bert(spec: ModelSpec) -> TinyModel:
    """The twin of all-MiniLM-L6-v2."""
    tokenizer, width = tokenizers.bert(), spec.dim or 384
    seeds = Seeds(spec.repo)
    seeds.draw("embeddings.word_embeddings.weight", len(tokenizer.vocabulary), width, gain=16.0)
    seeds.draw("embeddings.position_embeddings.weight", 512, width, gain=4.0)
    seeds.draw("embeddings.token_type_embeddings.weight", 2, width)
    seeds.norm("embeddings.LayerNorm", width)
    attention = "attention.self.query attention.self.key attention.self.value"
    _encoder_layers(
        seeds, width, NARROW, (attention, "attention.output.dense", "attention.output.LayerNorm")
    )
    config = _encoder_config(
        tokenizer,
        width,
        architectures=["BertModel"],
        model_type="bert",
        layer_norm_eps=1e-12,
        max_position_embeddings=512,
        type_vocab_size=2,
        pad_token_id=0,
    )
    files = _sentence_files(spec, word_dim=width, dense=False)
    return TinyModel(
        tokenizer, {"config.json": config, **files}, {"model.safetensors": seeds.tensors}
    )


def mpnet(spec: ModelSpec) -> TinyModel:
    """The twin of all-mpnet-base-v2."""
    tokenizer, width = tokenizers.mpnet(), spec.dim or 768
    seeds = Seeds(spec.repo)
    seeds.draw("embeddings.word_embeddings.weight", len(tokenizer.vocabulary), width, gain=16.0)
    seeds.draw("embeddings.position_embeddings.weight", 514, width, gain=4.0)
    seeds.norm("embeddings.LayerNorm", width)
    attention = "attention.attn.q attention.attn.k attention.attn.v"
    _encoder_layers(
        seeds, width, MPNET_MIDDLE, (attention, "attention.attn.o", "attention.LayerNorm")
    )
    seeds.draw("encoder.relative_attention_bias.weight", 32, 12)
    config = _encoder_config(
        tokenizer,
        width,
        architectures=["MPNetModel"],
        model_type="mpnet",
        layer_norm_eps=1e-5,
        max_position_embeddings=514,
        intermediate_size=MPNET_MIDDLE,
        relative_attention_num_buckets=32,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    files = _sentence_files(spec, word_dim=width, dense=False)
    return TinyModel(
        tokenizer, {"config.json": config, **files}, {"model.safetensors": seeds.tensors}
    )


def t5(spec: ModelSpec) -> TinyModel:
    """The twin of sentence-t5-large: an encoder, mean pooling, and a Dense tail."""
    tokenizer, heads, head_width = tokenizers.t5(), 4, 32
    seeds = Seeds(spec.repo)
    seeds.draw("shared.weight", len(tokenizer.vocabulary), NARROW, gain=11.0)
    for number in range(LAYERS):
        attention = f"encoder.block.{number}.layer.0."
        for part in "qkv":
            seeds.draw(
                f"{attention}SelfAttention.{part}.weight", heads * head_width, NARROW, gain=0.6
            )
        seeds.draw(f"{attention}SelfAttention.o.weight", NARROW, heads * head_width)
        seeds.ones(f"{attention}layer_norm.weight", NARROW)
        feed = f"encoder.block.{number}.layer.1."
        seeds.draw(f"{feed}DenseReluDense.wi.weight", NARROW, NARROW)
        seeds.draw(f"{feed}DenseReluDense.wo.weight", NARROW, NARROW)
        seeds.ones(f"{feed}layer_norm.weight", NARROW)
    seeds.draw("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 32, heads)
    seeds.ones("encoder.final_layer_norm.weight", NARROW)
    config = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": NARROW,
        "d_kv": head_width,
        "d_ff": NARROW,
        "num_heads": heads,
        "num_layers": LAYERS,
        "num_decoder_layers": LAYERS,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "vocab_size": len(tokenizer.vocabulary),
        "dtype": "float32",
    }
    tail = Seeds(spec.repo + "/dense")
    tail.draw("linear.weight", spec.dim or 768, NARROW)
    files = _sentence_files(spec, word_dim=NARROW, dense=True)
    tensors = {"model.safetensors": seeds.tensors, "2_Dense/model.safetensors": tail.tensors}
    return TinyModel(tokenizer, {"config.json": config, **files}, tensors)
