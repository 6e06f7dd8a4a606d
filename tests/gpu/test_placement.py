"""Chat models on a GPU as placement puts them there: quantised, or partly in the CPU's memory."""

import pytest
import torch

from hybrid_infer.local.generation.decoders import Piece, load_decoder
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quantizing import has_torchao
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

pytestmark = pytest.mark.gpu
PROMPT = [1, 5, 9, 40, 12, 33]


def logits(placement):
    path = find_snapshot(load_registry(profile="tiny").resolve("chat", "default"))
    decoder = load_decoder(path, placement)
    with torch.inference_mode():
        decoder.cache.begin(0, 16)
        return decoder.prefill([Piece(0, 0, PROMPT)]).cpu()


@pytest.mark.skipif(not has_torchao(), reason="torchao is not installed")
@pytest.mark.parametrize(("scheme", "least"), [("int8", 0.99), ("int4", 0.85)])
def test_a_quantised_decoder_computes_nearly_the_same(scheme, least):
    exact = logits(Placement("cpu", "float32"))
    small = logits(Placement("cuda:0", "bfloat16", scheme))
    assert torch.nn.functional.cosine_similarity(small, exact).min() > least


def test_layers_in_the_cpus_memory_compute_the_same():
    exact = logits(Placement("cpu", "float32"))
    spread = (("cuda:0", 600_000), ("cpu", 10**9))
    torch.testing.assert_close(
        logits(Placement("cuda:0", "float32", spread=spread)), exact, atol=1e-3, rtol=1e-3
    )
