"""Packed attention against the definition, sequence by sequence."""

import pytest
import torch

from hybrid_infer.local.embedding.attention import (
    RelativeBias,
    attention_buckets,
    attention_masks,
    packed_attention,
)

CPU = torch.device("cpu")


def expected(rows, bias):
    size = len(rows)
    query, key, value = rows.view(size, 3, 2, 4).permute(1, 2, 0, 3)
    scores = query @ key.transpose(-1, -2) * 0.5
    if bias is not None:
        scores = scores + bias[0, :, :size, :size]
    return (scores.softmax(-1) @ value).transpose(0, 1).reshape(size, 8)


def attention(qkv, lengths, bias):
    buckets = attention_buckets(lengths, CPU)
    masks = attention_masks(buckets, qkv.dtype, bias)
    return packed_attention(qkv, buckets, masks, num_heads=2, scale=0.5)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    "lengths", [[1], [5, 5, 3], [130, 130, 128, 97, 97, 40, 17, 16, 16, 2, 1], [33, 33], [20, 18]]
)
def test_packed_attention_is_attention(lengths, with_bias):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3 * 8, generator=generator)
    table = torch.randn(32, 2, generator=generator)
    bias = RelativeBias(table)(max(lengths) + 31) if with_bias else None
    got = attention(qkv, lengths, bias)
    for rows, mixed in zip(qkv.split(lengths), got.split(lengths), strict=True):
        torch.testing.assert_close(mixed, expected(rows, bias))


def test_a_row_that_is_not_a_number_stays_in_its_own_sequence():
    lengths = [20, 19, 18, 17]
    qkv = torch.randn(sum(lengths), 24)
    for poisoned in range(4):
        bad = [part.clone() for part in qkv.split(lengths)]
        bad[poisoned][:] = torch.nan
        for number, mixed in enumerate(attention(torch.cat(bad), lengths, None).split(lengths)):
            assert bool(mixed.isfinite().all()) is (number != poisoned)


def test_a_longer_bias_contains_the_shorter_one():
    table = torch.randn(32, 2)
    grown = RelativeBias(table)
    short = grown(40).clone()
    torch.testing.assert_close(grown(300)[:, :, :40, :40], short)
    assert grown(100) is grown(300)
