"""Attention over packed sequences, through torch's fused kernel, in buckets of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.embedding.buckets import length_buckets


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences of a packed batch that attend together, padded to one length.

    Attributes:
        rows: their rows in the packed batch.
        count: sequences.
        length: tokens of each, padding included.
        padded: for every padded place the row it is filled from, int64 ``(count * length,)``;
            None if nothing is padded.
        real: the places that are not padding, int64 ``(rows,)``; None if nothing is padded.
        mask: which keys are not padding, ``(count, 1, 1, length)``; None if all are.
    """

    rows: slice
    count: int
    length: int
    padded: Tensor | None = None
    real: Tensor | None = None
    mask: Tensor | None = None


Masks: TypeAlias = "list[Tensor | None]"


def attention_buckets(lengths: Sequence[int], device: torch.device) -> list[Bucket]:
    """The buckets of a packed batch that is sorted by length."""
    buckets, stop = [], 0
    for bucket in length_buckets(lengths):
        own = np.array(lengths[bucket.first : bucket.first + bucket.count])
        start, stop = stop, stop + int(own.sum())
        rows = slice(start, stop)
        if (own == bucket.length).all():
            buckets.append(Bucket(rows, bucket.count, bucket.length))
            continue
        places = np.arange(bucket.length)
        is_real = places < own[:, None]
        # Padding repeats the sequence's own last row: were it another's, one that is not a
        # number would spoil its neighbours, mask or no mask.
        padded = (own.cumsum() - own)[:, None] + np.minimum(places, own[:, None] - 1)
        buckets.append(
            Bucket(
                rows,
                bucket.count,
                bucket.length,
                torch.from_numpy(padded.ravel()).to(device),
                torch.from_numpy(np.flatnonzero(is_real)).to(device),
                torch.from_numpy(is_real[:, None, None, :]).to(device),
            )
        )
    return buckets


def attention_masks(
    buckets: Sequence[Bucket], dtype: torch.dtype, bias: Tensor | None = None
) -> Masks:
    """What each bucket adds to its scores; made once for all layers.

    Args:
        buckets: of a batch.
        dtype: of the scores.
        bias: ``(1, heads, longest, longest)``; shorter buckets use its upper left corner.
    """
    masks: Masks = []
    for bucket in buckets:
        corner = None
        if bias is not None:
            corner = bias[:, :, : bucket.length, : bucket.length]
        elif bucket.mask is not None:
            corner = torch.zeros(bucket.mask.shape, dtype=dtype, device=bucket.mask.device)
        masks.append(
            corner
            if bucket.mask is None or corner is None
            else corner.masked_fill(bucket.mask.logical_not(), float("-inf"))
        )
    return masks


def packed_attention(
    qkv: Tensor,
    buckets: Sequence[Bucket],
    masks: Masks,
    *,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Bidirectional attention within each sequence of a packed batch.

    Args:
        qkv: ``(rows, 3 * heads * head size)``: queries, keys, values side by side.
        buckets: covering all tokens in order; rows behind them give zeros.
        masks: see `attention_masks`.
        num_heads: attention heads.
        scale: factor on the scores.

    Returns:
        ``(rows, heads * head size)``.
    """
    width = qkv.shape[1] // 3
    context = qkv.new_empty(qkv.shape[0], width)
    context[buckets[-1].rows.stop :] = 0
    for bucket, mask in zip(buckets, masks, strict=True):
        rows = qkv[bucket.rows]
        if bucket.padded is not None:
            rows = rows.index_select(0, bucket.padded)
        split = rows.view(bucket.count, bucket.length, 3, num_heads, width // num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale
        )
        flat = mixed.transpose(1, 2).reshape(-1, width)
        if bucket.real is None:
            context[bucket.rows] = flat
        else:
            torch.index_select(flat, 0, bucket.real, out=context[bucket.rows])
    return context


class RelativeBias:
    """T5's bidirectional relative position bias, which MPNet shares.

    Half of the buckets are for each direction; half of those are exact distances, the rest grow
    logarithmically up to `max_distance` (Raffel et al. 2020, section 2.1).

    Args:
        table: ``(buckets, heads)``.
        num_buckets: rows of the table.
        max_distance: distances beyond it share the last bucket.
    """

    def __init__(self, table: Tensor, *, num_buckets: int = 32, max_distance: int = 128) -> None:
        self._table, self._num_buckets, self._max_distance = table, num_buckets, max_distance
        self._computed_so_far = [table.new_empty(1, table.shape[1], 0, 0)]

    def __call__(self, longest: int) -> Tensor:
        """The bias of at least `longest` positions, ``(1, heads, positions, positions)``."""
        bias = self._computed_so_far[-1]
        if bias.shape[-1] < longest:
            if not self._table.is_cuda:
                bias = self._computed(longest)
                self._computed_so_far = [bias]
                return bias
            # Other threads use it on streams of their own, and may still use a shorter one, which
            # stays therefore: each is at least twice as long as the last.
            bias = self._computed(max(longest, 2 * bias.shape[-1]))
            torch.cuda.current_stream(bias.device).synchronize()
            self._computed_so_far.append(bias)
        return bias

    def _computed(self, longest: int) -> Tensor:
        positions = torch.arange(longest, device=self._table.device)
        distance = positions[None, :] - positions[:, None]  # key minus query
        half = self._num_buckets // 2
        exact = half // 2
        bucket = torch.where(distance > 0, half, 0)
        distance = distance.abs()
        logarithmic = exact + (
            torch.log(distance.clamp(min=1).float() / exact)
            / torch.log(torch.tensor(self._max_distance / exact))
            * (half - exact)
        ).to(torch.long)
        bucket = bucket + torch.where(distance < exact, distance, logarithmic.clamp(max=half - 1))
        return functional.embedding(bucket, self._table).permute(2, 0, 1).unsqueeze(0).contiguous()
