"""Decoders loaded as a placement says: quantised, and through accelerate's device maps."""

import pytest
import torch

from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.generation.decoders import Piece, load_decoder
from hybrid_infer.local.generation.decoders.generic import Generic
from hybrid_infer.local.generation.decoders.llama import Llama
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quantizing import can_quantize, has_torchao, quantizer
from hybrid_infer.local.translation import loading_errors
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

needs_torchao = pytest.mark.skipif(not has_torchao(), reason="torchao is not installed")
CPU = torch.device("cpu")
PROMPT = [1, 5, 9, 40, 12, 33]


@pytest.fixture(scope="module")
def path():
    return find_snapshot(load_registry(profile="tiny").resolve("chat", "default"))


def logits(decoder):
    with torch.inference_mode():
        decoder.cache.begin(0, 16)
        first = decoder.prefill([Piece(0, 0, PROMPT)]).clone()  # good until the next call only
        return torch.cat([first, decoder.decode([3], [len(PROMPT)], [0])])


def similarity(one, other):
    return float(torch.nn.functional.cosine_similarity(one, other).min())


def tensor_bytes(weight):
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    names, _ = weight.__tensor_flatten__()
    return sum(tensor_bytes(part) for n in names if (part := getattr(weight, n)) is not None)


def test_a_device_map_computes_what_our_own_decoder_does(path):
    whole = load_decoder(path, Placement("cpu", "float32"))
    assert isinstance(whole, Llama)
    shared = load_decoder(path, Placement("cpu", "float32", spread=(("cpu", 10**9),)))
    assert isinstance(shared, Generic)
    torch.testing.assert_close(logits(shared), logits(whole), atol=1e-4, rtol=1e-4)


def test_layers_that_find_no_place_are_a_typed_error_and_no_folder_on_disk(path, tmp_path):
    with pytest.raises(HybridInferError), loading_errors("org/model"):
        load_decoder(path, Placement("cpu", "float32", spread=(("cpu", 1000),)))


@needs_torchao
@pytest.mark.parametrize(
    ("scheme", "dtype", "least"),
    [
        ("int8", "bfloat16", 0.99),
        ("int8", "float32", 0.99),
        ("int4", "bfloat16", 0.85),
        ("int4", "float32", 0.85),
    ],
)
def test_a_quantised_decoder_computes_nearly_the_same(path, scheme, dtype, least):
    exact = logits(load_decoder(path, Placement("cpu", "float32")))
    small = load_decoder(path, Placement("cpu", dtype, scheme))
    assert isinstance(small, Llama)
    got = logits(small)
    assert got.dtype == torch.float32
    assert least < similarity(got, exact) < 0.999999


@needs_torchao
def test_transformers_own_modules_are_quantised_as_well(path):
    exact = logits(Generic(path, Placement("cpu", "float32")))
    small = Generic(path, Placement("cpu", "float32", "int8"))
    assert 0.99 < similarity(logits(small), exact) < 0.999999
    layers = [m.weight for n, m in small._model.named_modules() if ".layers." in n and "proj" in n]
    assert layers
    assert all(tensor_bytes(weight) < weight.numel() * 2 for weight in layers)


@needs_torchao
@pytest.mark.parametrize(("scheme", "most"), [("int8", 1.01), ("int4", 0.63)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_weight_takes_no_more_than_placement_counts_on(scheme, most, dtype):
    weight = torch.randn(1024, 512, dtype=dtype)
    with torch.inference_mode():
        small = quantizer(scheme, CPU)(weight)
    assert tensor_bytes(small) <= weight.numel() * most


@needs_torchao
def test_a_shape_that_the_4_bit_kernels_cannot_take_stays_as_it_is():
    weight = torch.randn(100, 64)
    assert not can_quantize("int4", 100, 64)
    assert can_quantize("int8", 100, 64)
    assert quantizer("int4", CPU)(weight) is weight
