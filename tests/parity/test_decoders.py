"""Decoders against transformers: seeded shapes of the Llama family, rows of many lengths in one step."""

import json

import pytest
import torch

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.generation.decoders import Piece, load_decoder
from hybrid_infer.local.generation.decoders.generic import Generic
from hybrid_infer.local.generation.decoders.llama import Llama
from hybrid_infer.local.generation.decoders.native import NativeLlama
from hybrid_infer.local.generation.decoders.recorded import RecordedLlama
from hybrid_infer.local.native import library
from hybrid_infer.local.placement import Placement

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 203,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "pad_token_id": 0,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "llama, grouped": {"model_type": "llama", "num_key_value_heads": 2},
    "llama, one key head, tied": {
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 48,
        "tie_word_embeddings": True,
    },
    "llama 3.1": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rope_parameters": STRETCHED,
    },
    "phi-3": {"model_type": "phi3", "num_key_value_heads": 4, "head_dim": 96},
    "phi-3, window": {"model_type": "phi3", "num_key_value_heads": 4, "sliding_window": 100},
    "phi-3, grouped": {"model_type": "phi3", "num_key_value_heads": 2, "head_dim": 128},
}
# Lengths around the sizes at which caches grow: pages of 64 tokens, extents of 256.
LENGTHS = (1, 63, 64, 65, 130, 300)
NEW_TOKENS = 3


def seeded(folder, config):
    """Save a model with seeded weights that bfloat16 holds exactly; the same model in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    chosen = AutoConfig.for_model(**{**COMMON, **config})
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(chosen).bfloat16().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shape")
    return folder, seeded(folder, SHAPES[request.param])


def prompts():
    source = torch.Generator().manual_seed(3)
    return [torch.randint(1, 203, (length,), generator=source).tolist() for length in LENGTHS]


def steps(decoder, piece):
    """Logits behind each prompt, and of some steps of all rows together, fed with known tokens."""
    texts, got = prompts(), []
    with torch.inference_mode():
        for row, ids in enumerate(texts):
            decoder.cache.begin(row, len(ids) + NEW_TOKENS)
            for at in range(0, len(ids), piece):
                logits = decoder.prefill([Piece(row, at, ids[at : at + piece])])
            got.append([logits[0].clone()])
        rows = list(range(len(texts)))
        for number in range(NEW_TOKENS):
            lengths = [len(ids) + number for ids in texts]
            # The first of them twice, as after a failure; the rows in any order.
            decoder.decode([9 + number], lengths[:1], rows[:1])
            tokens = [9 + number] * len(rows)
            logits = decoder.decode(tokens, lengths[::-1], rows[::-1]).flip(0)
            for row in rows:
                got[row].append(logits[row].clone())
        for row in rows:
            decoder.cache.end(row)
    return got


def together(decoder):
    """Logits behind each prompt, all read in one call, then again in two halves."""
    texts = prompts()
    with torch.inference_mode():
        for row, ids in enumerate(texts):
            decoder.cache.begin(row, len(ids) + NEW_TOKENS)
        whole = decoder.prefill([Piece(row, 0, ids) for row, ids in enumerate(texts)]).clone()
        halves = [len(ids) // 2 for ids in texts]
        firsts = [
            Piece(row, 0, ids[:half])
            for row, (ids, half) in enumerate(zip(texts, halves, strict=True))
            if half
        ]
        decoder.prefill(firsts)
        rest = [
            Piece(row, half, ids[half:])
            for row, (ids, half) in enumerate(zip(texts, halves, strict=True))
        ]
        again = decoder.prefill(rest[::-1]).flip(0).clone()
        for row in range(len(texts)):
            decoder.cache.end(row)
    return [[whole[row], again[row]] for row in range(len(texts))]


def expected_steps(model):
    out = []
    with torch.inference_mode():
        for ids in prompts():
            whole = torch.tensor([ids + [9 + number for number in range(NEW_TOKENS)]])
            out.append(list(model(whole).logits[0, len(ids) - 1 :]))
    return out


def _distances(got, expected):
    ours, theirs = (torch.stack([torch.stack(row) for row in rows]) for rows in (got, expected))
    return (ours - theirs) / theirs.std(-1, keepdim=True)


def worst(got, expected):
    """The largest distance, in standard deviations of the logits."""
    return float(_distances(got, expected).abs().max())


def typical(got, expected):
    """The root of the mean square distance, in standard deviations of the logits."""
    return float(_distances(got, expected).square().mean().sqrt())


@pytest.mark.parametrize("piece", [1000, 50])
def test_float32_is_transformers(model, piece):
    folder, theirs = model
    decoder = load_decoder(folder, Placement("cpu", "float32"))
    assert isinstance(decoder, Llama)
    assert worst(steps(decoder, piece), expected_steps(theirs)) < 1e-4
    assert not decoder.cache.num_places


def test_prompts_that_are_read_together_are_transformers(model):
    folder, theirs = model
    decoder = load_decoder(folder, Placement("cpu", "float32"))
    expected = [[row[0], row[0]] for row in expected_steps(theirs)]
    assert worst(together(decoder), expected) < 1e-4


class WholeSpans(RecordedLlama):
    """What a GPU records, computed at once: a graph cannot be had here, its arithmetic can."""

    def _step(self, inputs, spans):
        return self._span_logits(spans, inputs)


@pytest.mark.parametrize("piece", [1000, 50])
def test_steps_over_whole_spans_are_transformers(model, piece):
    folder, theirs = model
    with torch.inference_mode():
        config = json.loads((folder / "config.json").read_text())
        decoder = WholeSpans(_weights(folder, torch.float32), config)
    assert worst(steps(decoder, piece), expected_steps(theirs)) < 1e-4


def test_a_step_over_whole_spans_leaves_half_read_prompts_alone(tmp_path):
    theirs = seeded(tmp_path, SHAPES["llama, grouped"])
    config = json.loads((tmp_path / "config.json").read_text())
    with torch.inference_mode():
        decoder = WholeSpans(_weights(tmp_path, torch.float32), config)
        decoder.cache.begin(0, 60)
        decoder.prefill([Piece(0, 0, [5] * 50)])
        decoder.cache.begin(1, 256)  # all places that its slot has
        ids = [(7 * place) % 203 for place in range(255)]
        for start in range(0, 255, 51):
            piece = ids[start : start + 51]
            logits = decoder.prefill([Piece(1, start, piece)])
            decoder.decode([9], [50 + start // 51], [0])
        expected = theirs(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(logits[0], expected, atol=1e-3, rtol=1e-3)
        last = decoder.decode([3], [255], [1])
        expected = theirs(torch.tensor([[*ids, 3]])).logits[0, -1]
        torch.testing.assert_close(last[0], expected, atol=1e-3, rtol=1e-3)


def test_slots_that_nobody_reads_stay_within_the_tables(tmp_path):
    theirs = seeded(tmp_path, {**SHAPES["llama, grouped"], "max_position_embeddings": 300})
    config = json.loads((tmp_path / "config.json").read_text())
    ids = [(7 * place) % 203 for place in range(295)]
    with torch.inference_mode():
        decoder = WholeSpans(_weights(tmp_path, torch.float32), config)
        for row in range(3):  # so that the span has a slot more
            decoder.cache.begin(row, 300)
            decoder.prefill([Piece(row, 0, ids)])
        got = decoder.decode([3] * 3, [295] * 3, [0, 1, 2])
        expected = theirs(torch.tensor([[*ids, 3]])).logits[0, -1]
    torch.testing.assert_close(got, expected.expand(3, -1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("piece", [1000, 50])
@pytest.mark.skipif(library() is None, reason="the kernels are not here")
def test_kernels_are_as_exact_as_torch_in_bfloat16(model, piece):
    folder, theirs = model
    expected = expected_steps(theirs)
    kernels = load_decoder(folder, Placement("cpu", "bfloat16"))
    assert isinstance(kernels, NativeLlama)
    with torch.inference_mode():
        operators = Llama(
            _weights(folder, torch.bfloat16), json.loads((folder / "config.json").read_text())
        )
    distance = typical(steps(kernels, piece), expected)
    assert distance < 1.1 * typical(steps(operators, piece), expected)
    assert distance < 0.05
    read = [[row[0], row[0]] for row in expected]
    assert typical(together(kernels), read) < 0.05
    assert not kernels.cache.num_pages


def _weights(folder, dtype):
    from hybrid_infer.local.weights import Weights

    return Weights.of_snapshot(folder, "cpu", dtype)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 40},
        {"model_type": "llama", "num_key_value_heads": 2, "attention_bias": True},
        {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_what_our_own_code_does_not_compute_is_left_to_transformers(tmp_path, config):
    theirs = seeded(tmp_path, config)
    decoder = load_decoder(tmp_path, Placement("cpu", "float32"))
    assert isinstance(decoder, Generic)
    assert worst(steps(decoder, 1000), expected_steps(theirs)) < 1e-4


def edited(folder, **changes):
    """Put keys into a config.json, or take out those that are None; transformers' model of it."""
    from transformers import AutoModelForCausalLM

    config = {**json.loads((folder / "config.json").read_text()), **changes}
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_window_that_a_family_does_not_have_is_none(tmp_path):
    seeded(tmp_path, SHAPES["llama, grouped"])
    theirs = edited(tmp_path, sliding_window=32)
    decoder = load_decoder(tmp_path, Placement("cpu", "float32"))
    assert isinstance(decoder, Llama)
    assert worst(steps(decoder, 1000), expected_steps(theirs)) < 1e-4


def test_a_long_rotary_embedding_is_left_to_transformers(tmp_path):
    rope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    theirs = seeded(tmp_path, {**SHAPES["phi-3"], "head_dim": 16, "rope_scaling": rope})
    decoder = load_decoder(tmp_path, Placement("cpu", "bfloat16"))
    assert isinstance(decoder, Generic)
    assert theirs.config.rope_parameters["rope_type"] == "longrope"


@pytest.mark.parametrize("missing", ["rms_norm_eps", "max_position_embeddings"])
def test_what_a_configuration_leaves_out_is_transformers_default(tmp_path, missing):
    seeded(tmp_path, {**SHAPES["phi-3"], "rms_norm_eps": 1e-5})
    theirs = edited(tmp_path, **{missing: None})
    decoder = load_decoder(tmp_path, Placement("cpu", "float32"))
    assert isinstance(decoder, Generic)
    assert worst(steps(decoder, 1000), expected_steps(theirs)) < 1e-4


@pytest.mark.skipif(library() is None, reason="the kernels are not here")
def test_kernels_read_no_further_than_their_tables(tmp_path):
    seeded(tmp_path, SHAPES["llama, grouped"])
    decoder = load_decoder(tmp_path, Placement("cpu", "bfloat16"))
    assert isinstance(decoder, NativeLlama)
    with torch.inference_mode():
        decoder.cache.begin(0, 600)
        for token in (-1, 203, 1 << 32):
            with pytest.raises(IndexError):
                decoder.prefill([Piece(0, 0, [1, token])])
        with pytest.raises(IndexError):
            decoder.decode([1], [512], [0])


@pytest.mark.skipif(library() is None, reason="the kernels are not here")
@pytest.mark.parametrize(
    ("stated", "error"),
    [
        ({"intermediate_size": 192}, RuntimeError),
        ({"num_hidden_layers": 4}, ModelIntegrityError),
        ({"vocab_size": 300}, ModelIntegrityError),
        ({"head_dim": 32}, RuntimeError),
    ],
    ids=str,
)
def test_weights_of_other_shapes_than_stated_are_refused(tmp_path, stated, error):
    seeded(tmp_path, SHAPES["llama, grouped"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **stated}))
    with pytest.raises(error):
        load_decoder(tmp_path, Placement("cpu", "bfloat16"))
