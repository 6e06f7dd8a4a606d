"""The seeded chat models: configurations and tensors of the real architectures, at toy width."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.snapshots import tiny_chat_tokenizers as tokenizers
from hybrid_infer.snapshots.tiny_models import LAYERS, NARROW, Json, Seeds, TinyModel
from hybrid_infer.snapshots.tiny_tokenizers import TinyTokenizer

WIDTH = 64


def _speaking_head(seeds: Seeds, tokenizer: TinyTokenizer, end: str, *, end_gain: float) -> None:
    """An output layer that says whole words, and its end token now and then."""
    head = seeds.draw("lm_head.weight", len(tokenizer.vocabulary), WIDTH, gain=24.0)
    wanted = np.zeros(len(head), bool)
    wanted[list(tokenizer.favoured)] = True
    wanted[tokenizer.vocabulary[end]] = True
    head[~wanted] = 0.0
    head[tokenizer.vocabulary[end]] *= np.float32(end_gain)


def _chat_config(spec: ModelSpec, tokenizer: TinyTokenizer, **more: Any) -> Json:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": NARROW,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": spec.context_length,
        "tie_word_embeddings": False,
        "vocab_size": len(tokenizer.vocabulary),
        "dtype": "float32",
        **more,
    }


def llama(spec: ModelSpec) -> TinyModel:
    """The twin of Meta-Llama-3-8B-Instruct."""
    tokenizer, kv_width = tokenizers.llama(), 32
    ids, seeds = tokenizer.vocabulary, Seeds(spec.repo)
    seeds.draw("model.embed_tokens.weight", len(ids), WIDTH, gain=8.0)
    for number in range(LAYERS):
        layer = f"model.layers.{number}."
        seeds.ones(f"{layer}input_layernorm.weight", WIDTH)
        seeds.draw(f"{layer}self_attn.q_proj.weight", WIDTH, WIDTH, gain=2.0)
        seeds.draw(f"{layer}self_attn.k_proj.weight", kv_width, WIDTH, gain=2.0)
        seeds.draw(f"{layer}self_attn.v_proj.weight", kv_width, WIDTH, gain=2.0)
        seeds.draw(f"{layer}self_attn.o_proj.weight", WIDTH, WIDTH, gain=2.0)
        seeds.ones(f"{layer}post_attention_layernorm.weight", WIDTH)
        seeds.draw(f"{layer}mlp.gate_proj.weight", NARROW, WIDTH, gain=2.0)
        seeds.draw(f"{layer}mlp.up_proj.weight", NARROW, WIDTH, gain=2.0)
        seeds.draw(f"{layer}mlp.down_proj.weight", WIDTH, NARROW, gain=2.0)
    seeds.ones("model.norm.weight", WIDTH)
    _speaking_head(seeds, tokenizer, "<|eot_id|>", end_gain=1.5)
    ends = [ids["<|end_of_text|>"], ids["<|eot_id|>"]]
    config = _chat_config(
        spec,
        tokenizer,
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        num_key_value_heads=2,
        rope_theta=500000.0,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ends[0],
    )
    generation = {
        "bos_token_id": ids["<|begin_of_text|>"],
        "eos_token_id": ends,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    }
    files = {"config.json": config, "generation_config.json": generation}
    return TinyModel(tokenizer, files, {"model.safetensors": seeds.tensors})


def phi(spec: ModelSpec) -> TinyModel:
    """The twin of Phi-3-mini-4k-instruct."""
    tokenizer = tokenizers.phi()
    ids, seeds = tokenizer.vocabulary, Seeds(spec.repo)
    seeds.draw("model.embed_tokens.weight", len(ids), WIDTH, gain=8.0)
    for number in range(LAYERS):
        layer = f"model.layers.{number}."
        seeds.ones(f"{layer}input_layernorm.weight", WIDTH)
        seeds.draw(f"{layer}self_attn.qkv_proj.weight", 3 * WIDTH, WIDTH, gain=2.0)
        seeds.draw(f"{layer}self_attn.o_proj.weight", WIDTH, WIDTH, gain=2.0)
        seeds.ones(f"{layer}post_attention_layernorm.weight", WIDTH)
        seeds.draw(f"{layer}mlp.gate_up_proj.weight", 2 * NARROW, WIDTH, gain=2.0)
        seeds.draw(f"{layer}mlp.down_proj.weight", WIDTH, NARROW, gain=2.0)
    seeds.ones("model.norm.weight", WIDTH)
    _speaking_head(seeds, tokenizer, "<|end|>", end_gain=1.0)
    ends = [ids["<|endoftext|>"], ids["<|assistant|>"], ids["<|end|>"]]
    config = _chat_config(
        spec,
        tokenizer,
        architectures=["Phi3ForCausalLM"],
        model_type="phi3",
        num_key_value_heads=4,
        rope_theta=10000.0,
        original_max_position_embeddings=spec.context_length,
        sliding_window=2047,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    generation = {
        "bos_token_id": ids["<s>"],
        "eos_token_id": ends,
        "pad_token_id": ids["<|endoftext|>"],
    }
    files = {"config.json": config, "generation_config.json": generation}
    return TinyModel(tokenizer, files, {"model.safetensors": seeds.tensors})
