"""Batches in the shape of a recording: more rows and sequences than there are, and the same vectors.

What a GPU does with them is computed here by a stand-in for its attention kernel.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hybrid_infer.local.embedding.encoders import load_encoder, postnorm
from hybrid_infer.local.embedding.encoders.shapes import LEAST_LONGEST, LEAST_ROWS, Shape
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.placement import Placement
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.facts import snapshot_facts
from hybrid_infer.snapshots.resolve import find_snapshot

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=40).map(
    lambda lengths: sorted(lengths, reverse=True)
)


def varlen_attention(query, key, value, ends, longest, *, is_causal):
    """As the kernel has it: no row beyond `longest` of a sequence is written."""
    assert not is_causal
    mixed = torch.full_like(query, torch.nan)
    bounds = ends.tolist()
    for start, end in pairwise(bounds):
        stop = min(end, start + longest)
        if start < stop:
            one, two, three = (x[start:stop].transpose(0, 1)[None] for x in (query, key, value))
            mixed[start:stop] = functional.scaled_dot_product_attention(one, two, three)[
                0
            ].transpose(0, 1)
    return mixed


@pytest.fixture(scope="module")
def encoders():
    path = find_snapshot(load_registry(profile="tiny").resolve("embeddings", "small"))
    facts, placement = snapshot_facts(path), Placement("cpu", "float32")
    plain = load_encoder(path, facts, placement)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postnorm, "has_varlen", lambda *_: True)
        patch.setattr(postnorm, "varlen_attention", varlen_attention)
        recordable = load_encoder(path, facts, placement)
        assert recordable._trunk.is_recordable
        assert recordable._tail.is_recordable
        assert not plain._trunk.is_recordable
        yield plain, recordable


@settings(deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 2**16))
def test_what_a_shape_adds_reaches_no_vector(encoders, lengths, seed):
    plain, recordable = encoders
    source = np.random.default_rng(seed)
    sequences = Tokens.of(source.integers(1, 200, length) for length in lengths)
    shape = Shape.around(sequences)
    block = torch.full((shape.size,), -1, dtype=torch.int32)  # of the batch before
    shape.fill(memoryview(block.numpy()), sequences)
    got = recordable._pooled(shape.packed(block), normalize=True)[: len(sequences)].numpy()
    np.testing.assert_allclose(got, plain.encode(sequences, normalize=True), atol=2e-5)


@given(LENGTHS)
def test_shapes_are_few_and_have_room_for_one_more_sequence(lengths):
    shape = Shape.around(Tokens(np.empty(sum(lengths), np.int32), lengths))
    assert shape.sequences > len(lengths)
    assert shape.sequences <= max(2 * len(lengths), shape.rows // 16)
    assert lengths[0] <= shape.longest < max(2 * lengths[0], LEAST_LONGEST + 1)
    assert sum(lengths) <= shape.rows <= max(LEAST_ROWS, 2 * sum(lengths))
