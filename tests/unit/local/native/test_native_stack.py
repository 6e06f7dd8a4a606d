"""The kernels' stack against torch's, on seeded weights of many shapes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local import native
from hybrid_infer.local.embedding.attention import RelativeBias
from hybrid_infer.local.embedding.encoders.native_stack import NativeStack, supports
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.embedding.encoders.postnorm import Names, TorchStack, load_stack
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.native.averages import can_average, segment_means
from hybrid_infer.local.weights import Weights

CPU = torch.device("cpu")
NAMES = Names(qkv=("q", "k", "v"), output="o", norm="norm")
LENGTHS = [300, 257, 65, 64, 33, 32, 31, 17, 16, 15, 2, 1, 1]
SHAPES = {  # width, heads, inner
    "heads of 32": (64, 2, 96),
    "heads of 64": (128, 2, 160),
    "one head": (32, 1, 32),
    "several groups of heads": (288, 9, 64),
    "several chunks": (64, 2, 832),
}

needs_kernels = pytest.mark.skipif(
    native.library() is None, reason="no kernels: no C compiler, or a processor without AMX"
)


def make_weights(folder, width, heads, inner, dtype="bfloat16"):
    generator = torch.Generator().manual_seed(0)

    def rand(*shape, scale=1.0):
        return torch.randn(shape, generator=generator) * scale

    tensors = {"embeddings.word_embeddings.weight": rand(50, width)}

    def norm(name):
        tensors[f"{name}.weight"] = 1 + rand(width, scale=0.1)
        tensors[f"{name}.bias"] = rand(width, scale=0.1)

    def linear(name, outputs, inputs):
        tensors[f"{name}.weight"] = rand(outputs, inputs, scale=inputs**-0.5)
        tensors[f"{name}.bias"] = rand(outputs, scale=0.1)

    norm("embeddings.LayerNorm")
    for number in range(2):
        prefix = f"encoder.layer.{number}."
        for name in "qkvo":
            linear(prefix + name, width, width)
        linear(f"{prefix}intermediate.dense", inner, width)
        linear(f"{prefix}output.dense", width, inner)
        norm(f"{prefix}norm")
        norm(f"{prefix}output.LayerNorm")
    save_file(tensors, folder / "model.safetensors")
    config = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
    }
    weights = Weights([folder / "model.safetensors"], "cpu", getattr(torch, dtype))
    return weights, config, rand(512, width, scale=0.1), rand(32, heads)


def packed(lengths):
    generator = torch.Generator().manual_seed(1)
    ids = (torch.randint(50, (length,), generator=generator).numpy() for length in lengths)
    return Packed.of(Tokens.of(ids), CPU)


def stacks(folder, shape, *, is_relative):
    """The kernels' stack in bfloat16, torch's in the same, and torch's in float32."""
    made = []
    for kind, dtype in (("native", "bfloat16"), ("torch", "bfloat16"), ("torch", "float32")):
        weights, config, positions, table = make_weights(folder, *shape, dtype)
        relative = RelativeBias(table.to(weights.dtype)) if is_relative else None
        with torch.inference_mode():
            if kind == "native":
                made.append(
                    NativeStack(native.library(), weights, config, NAMES, positions, relative, None)
                )
            else:
                own = positions.to(weights.dtype)
                made.append(TorchStack(weights, config, NAMES, own, relative, None))
    return made


def worst(rows, exact):
    return float(torch.nn.functional.cosine_similarity(rows.float(), exact.float()).min())


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_as_close_to_float32_as_torch_is(tmp_path, shape, is_relative, threads, own_threads):
    ours, theirs, exact = stacks(tmp_path, shape, is_relative=is_relative)
    batch = packed(LENGTHS)
    own_threads(threads)
    with torch.inference_mode():
        expected = exact(batch)[: batch.num_tokens]
        got = ours(batch)[: batch.num_tokens]
        reference = theirs(batch)[: batch.num_tokens]
    assert worst(got, expected) >= min(0.999, worst(reference, expected) - 1e-4)


@needs_kernels
def test_a_sequence_is_the_same_whatever_its_neighbours(tmp_path):
    ours, _, _ = stacks(tmp_path, SHAPES["heads of 32"], is_relative=True)
    whole = packed(LENGTHS)
    with torch.inference_mode():
        together = ours(whole)[: whole.num_tokens].split(LENGTHS)
        for rows, ids in zip(together, whole.ids[: whole.num_tokens].split(LENGTHS), strict=True):
            alone = Packed.of(Tokens.of([ids.numpy()]), CPU)
            torch.testing.assert_close(rows, ours(alone), rtol=0, atol=0)


@needs_kernels
def test_a_value_that_is_no_number_stays_in_its_own_sequence(tmp_path):
    weights, config, positions, _ = make_weights(tmp_path, *SHAPES["heads of 32"])
    poison = len(weights("embeddings.word_embeddings.weight")) - 1
    weights._tensors["embeddings.word_embeddings.weight"][poison] = torch.nan
    with torch.inference_mode():
        ours = NativeStack(native.library(), weights, config, NAMES, positions, None, None)
        batch = packed(LENGTHS)
        batch.ids[batch.ids == poison] = 0
        for poisoned in range(len(LENGTHS)):
            ids = batch.ids[: batch.num_tokens].clone()
            parts = ids.split(LENGTHS)
            parts[poisoned][-1] = poison
            rows = ours(replace(batch, ids=ids)).split(LENGTHS)
            means, all_finite = ours.means(Tokens.of(part.numpy() for part in parts), is_unit=True)
            assert not all_finite
            expected = [number != poisoned for number in range(len(LENGTHS))]
            assert [bool(part.isfinite().all()) for part in rows] == expected
            assert np.isfinite(means).all(1).tolist() == expected


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_means_are_those_of_the_rows(tmp_path, threads, own_threads):
    weights, config, positions, _ = make_weights(tmp_path, *SHAPES["several chunks"])
    own_threads(threads)
    with torch.inference_mode():
        ours = NativeStack(native.library(), weights, config, NAMES, positions, None, None)
        batch = packed(LENGTHS)
        sequences = Tokens(batch.ids[: batch.num_tokens].numpy().astype(np.int32), LENGTHS)
        rows = ours(batch).split(LENGTHS)
    expected = torch.stack([part.float().mean(0) for part in rows])
    torch.testing.assert_close(torch.from_numpy(ours.means(sequences, is_unit=False)[0]), expected)
    unit = torch.nn.functional.normalize(expected, dim=1)
    torch.testing.assert_close(torch.from_numpy(ours.means(sequences, is_unit=True)[0]), unit)


@needs_kernels
def test_a_padding_token_within_a_text_does_not_advance_the_position(tmp_path):
    with torch.inference_mode():
        made = []
        for kind, dtype in ((NativeStack, "bfloat16"), (TorchStack, "float32")):
            weights, config, positions, _ = make_weights(tmp_path, *SHAPES["heads of 32"], dtype)
            arguments = (weights, config, NAMES, 9 * positions, None, 1)
            made.append(kind(*([native.library()] if kind is NativeStack else []), *arguments))
        ours, exact = made
        batch = packed(LENGTHS[2:])
        batch.ids[5:9] = batch.ids[70] = 1
        got, expected = (stack(batch)[: batch.num_tokens] for stack in (ours, exact))
    assert worst(got, expected) >= 0.999


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 48},
        {"intermediate_size": 40},
        {"num_attention_heads": 4},
        {"max_position_embeddings": 2048},
    ],
    ids=str,
)
def test_other_shapes_are_left_to_torch(tmp_path, change):
    weights, config, positions, _ = make_weights(tmp_path, *SHAPES["heads of 32"])
    assert supports(weights, config)
    assert not supports(weights, {**config, **change})
    with torch.inference_mode():
        wide, *_ = make_weights(tmp_path, *SHAPES["heads of 32"], "float32")
        assert isinstance(load_stack(wide, config, NAMES, positions), TorchStack)


def test_without_kernels_torch_computes(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    weights, config, positions, _ = make_weights(tmp_path, *SHAPES["heads of 32"])
    with torch.inference_mode():
        stack = load_stack(weights, config, NAMES, positions.bfloat16())
        batch = packed(LENGTHS)
        assert stack(batch).isfinite().all()
    assert isinstance(stack, TorchStack)


@needs_kernels
def test_the_means_of_sequences():
    x = torch.randn(sum(LENGTHS), 48).bfloat16()
    assert can_average(x)
    expected = torch.stack([part.float().mean(0) for part in x.split(LENGTHS)])
    torch.testing.assert_close(segment_means(native.library(), x, LENGTHS), expected)
    assert not can_average(x[:, :40])
    assert not can_average(x.float())


@needs_kernels
@pytest.mark.parametrize(
    ("token", "length", "num_positions"), [(50, 9, 512), (-1, 9, 512), (0, 513, 600), (0, 9, 8)]
)
def test_what_is_in_no_table_is_not_read(tmp_path, token, length, num_positions):
    weights, config, table, _ = make_weights(tmp_path, *SHAPES["heads of 32"])
    table = table.repeat(2, 1)[:num_positions]
    with torch.inference_mode():
        ours = NativeStack(native.library(), weights, config, NAMES, table, None, None)
        batch = packed([length, 3])
        batch.ids[1] = token
        with pytest.raises(IndexError):
            ours(batch)
        with pytest.raises(IndexError):
            ours.means(Tokens.of([batch.ids[:length].numpy()]), is_unit=True)
        means, all_finite = ours.means(Tokens.of([[1, 2, 3]]), is_unit=True)
        assert all_finite
        assert np.isfinite(means).all()


@needs_kernels
@pytest.mark.parametrize("change", [{"intermediate_size": 192}, {"hidden_size": 128}], ids=str)
def test_weights_of_other_shapes_than_stated_are_refused(tmp_path, change):
    weights, config, table, _ = make_weights(tmp_path, *SHAPES["heads of 32"])
    with torch.inference_mode(), pytest.raises(ModelIntegrityError):
        NativeStack(native.library(), weights, {**config, **change}, NAMES, table, None, None)


@needs_kernels
def test_texts_without_tokens_have_no_rows(tmp_path):
    weights, config, table, _ = make_weights(tmp_path, *SHAPES["heads of 32"])
    with torch.inference_mode():
        ours = NativeStack(native.library(), weights, config, NAMES, table, None, None)
        empty = packed([0, 0])
        assert ours(empty).shape == (0, 64)
        means, all_finite = ours.means(Tokens.of([[], []]), is_unit=False)
        assert np.isnan(means).all()
        assert not all_finite
