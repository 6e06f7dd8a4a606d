"""Attention over packed sequences: groups of equal length, so nothing is padded or masked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Below this length two batched products and a softmax beat the CPU's fused kernel, above it the
# fused kernel wins (measured with head size 32 on AVX512-BF16).
FUSED_FROM_TOKENS = 128

Group = tuple[int, int, int]


def packed_attention(
    qkv: Tensor,
    groups: Sequence[Group],
    *,
    num_heads: int,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """Bidirectional attention within each sequence of a packed batch.

    Args:
        qkv: ``(tokens, 3 * heads * head size)``: queries, keys, values side by side.
        groups: ``(first token, sequences, tokens of each)``, covering all tokens in order.
        num_heads: attention heads.
        scale: factor on the scores.
        bias: added to the scores, ``(1, heads, longest, longest)``; shorter sequences use its
            upper left corner.

    Returns:
        ``(tokens, heads * head size)``.
    """
    width = qkv.shape[1] // 3
    context = qkv.new_empty(qkv.shape[0], width)
    for start, count, length in groups:
        rows = slice(start, start + count * length)
        split = qkv[rows].view(count, length, 3, num_heads, width // num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        corner = None if bias is None else bias[:, :, :length, :length]
        if length >= FUSED_FROM_TOKENS or qkv.is_cuda:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=corner, scale=scale
            )
        else:
            scores = torch.matmul(query * scale if scale != 1.0 else query, key.transpose(-1, -2))
            if corner is not None:
                scores += corner
            mixed = torch.matmul(scores.softmax(-1), value)
        context[rows].view(count, length, num_heads, -1).copy_(mixed.transpose(1, 2))
    return context


def relative_bias(
    table: Tensor, longest: int, *, num_buckets: int = 32, max_distance: int = 128
) -> Tensor:
    """T5's bidirectional relative position bias, which MPNet shares.

    Half of the buckets are for each direction; half of those are exact distances, the rest grow
    logarithmically up to `max_distance` (Raffel et al. 2020, section 2.1).

    Args:
        table: ``(buckets, heads)``.
        longest: tokens of the longest sequence.
        num_buckets: rows of the table.
        max_distance: distances beyond it share the last bucket.

    Returns:
        ``(1, heads, longest, longest)``.
    """
    positions = torch.arange(longest, device=table.device)
    distance = positions[None, :] - positions[:, None]  # key minus query
    half = num_buckets // 2
    exact = half // 2
    bucket = torch.where(distance > 0, half, 0)
    distance = distance.abs()
    logarithmic = exact + (
        torch.log(distance.clamp(min=1).float() / exact)
        / torch.log(torch.tensor(max_distance / exact))
        * (half - exact)
    ).to(torch.long)
    bucket = bucket + torch.where(distance < exact, distance, logarithmic.clamp(max=half - 1))
    return functional.embedding(bucket, table).permute(2, 0, 1).unsqueeze(0)
