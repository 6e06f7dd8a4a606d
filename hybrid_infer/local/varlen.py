"""Attention over sequences that lie end to end: torch's own kernel for GPUs, where it has one."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, *, is_causal: bool
) -> Tensor:
    """Attention within each sequence, scores scaled by ``head size ** -0.5``.

    Args:
        query: ``(tokens, heads, head size)``.
        key: the same.
        value: the same.
        ends: behind the last token of each sequence, with a 0 in front, int32.
        longest: tokens of the longest sequence.
        is_causal: whether a token sees only itself and what is before it.

    Returns:
        ``(tokens, heads, head size)``.
    """
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if is_causal else (-1, -1)
    mixed = varlen_attn(query, key, value, ends, ends, longest, longest, window_size=window)
    return cast("Tensor", mixed)  # it has two results only when asked


@cache
def has_varlen(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch has it here (from 2.11 on, in half precision), and it computes what it should."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn((3, 12, 2, head_dim), generator=generator).to(device, dtype)
    ends = (0, 7, 12)
    sent = torch.tensor(ends, dtype=torch.int32, device=device)
    for is_causal in (False, True):
        try:
            got = varlen_attention(query, key, value, sent, 7, is_causal=is_causal)
        except (ImportError, RuntimeError, TypeError, ValueError):  # another torch, an older GPU
            return False
        for start, end in pairwise(ends):
            one, two, three = (
                x[start:end].transpose(0, 1)[None].float() for x in (query, key, value)
            )
            expected = functional.scaled_dot_product_attention(one, two, three, is_causal=is_causal)
            near = torch.allclose(
                got[start:end].float(), expected[0].transpose(0, 1), rtol=0.02, atol=0.02
            )
            if not near:
                return False
    return True
