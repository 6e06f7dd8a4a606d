"""transformers' own models, read in pieces and stepped by us, against its `generate`."""

import pytest
import torch

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.generation.decoders import Piece, load_decoder
from hybrid_infer.local.generation.decoders.generic import Generic
from hybrid_infer.local.placement import Placement

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 203,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BORDER = 96
LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16}
ALONE = {"hidden_size": 64, "vocab_size": 203, "num_hidden_layers": 2, "initializer_range": 0.25}
SHAPES = {
    "phi3": {**COMMON, "rope_scaling": LONG, "original_max_position_embeddings": BORDER},
    "bamba": {**COMMON, **MAMBA, "attn_layer_indices": [1, 3]},
    "jamba": {**COMMON, "attn_layer_period": 2, "attn_layer_offset": 1},
    "falcon_mamba": {**ALONE, "state_size": 8},
    "mamba2": {**ALONE, "state_size": 8, "num_heads": 4, "head_dim": 32, "n_groups": 1},
    "gemma3_text": {**COMMON, "head_dim": 16, "sliding_window": 32},
    "gpt_neox": COMMON,
    "opt": {**COMMON, "ffn_dim": 96, "word_embed_proj_dim": 64},
}
NEW_TOKENS = 8
# Below the border, up to it, across it by answering, just beyond it, and far beyond.
LENGTHS = (20, BORDER - NEW_TOKENS, BORDER - 3, BORDER, BORDER + 1, 150)


def seeded(folder, kind, shape):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).float()
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shape")
    theirs = seeded(folder, request.param, SHAPES[request.param])
    ours = load_decoder(folder, Placement("cpu", "float32"))
    assert isinstance(ours, Generic)
    return ours, theirs


def prompt(length):
    source = torch.Generator().manual_seed(length)
    return torch.randint(3, 203, (length,), generator=source).tolist()


def generated(model, ids):
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("piece", [1000, 40])
def test_answers_are_those_of_generate(model, piece):
    decoder, theirs = model
    texts = [prompt(length) for length in LENGTHS]
    with torch.inference_mode():
        expected = [generated(theirs, ids) for ids in texts]
        got = []
        for row, ids in enumerate(texts):
            decoder.cache.begin(row, len(ids) + NEW_TOKENS)
            for at in range(0, len(ids), piece):
                logits = decoder.prefill([Piece(row, at, ids[at : at + piece])])
            got.append([int(logits.argmax())])
        for number in range(NEW_TOKENS - 1):  # all rows side by side
            lengths = [len(ids) + number for ids in texts]
            tokens = [answer[-1] for answer in got]
            rows = list(range(len(texts)))
            for answer, row in zip(got, decoder.decode(tokens, lengths, rows), strict=True):
                answer.append(int(row.argmax()))
        for row in range(len(texts)):
            decoder.cache.end(row)
    assert got == expected


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("rwkv", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 203}),
        ("openai-gpt", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 203}),
        ("recurrent_gemma", {**COMMON, "num_key_value_heads": 1, "lru_width": 64}),
    ],
)
def test_what_keeps_nothing_between_steps_is_refused_when_it_is_loaded(tmp_path, kind, shape):
    seeded(tmp_path, kind, shape)
    with pytest.raises(ModelIntegrityError, match="keeps nothing of what it has read"):
        load_decoder(tmp_path, Placement("cpu", "float32"))
