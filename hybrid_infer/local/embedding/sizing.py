"""How many tokens are computed together. Pure: sizes in, a number out."""

from __future__ import annotations

CPU_TOKENS = 4_096  # more do not fit the caches between two operators
LEAST_GPU_TOKENS = 4_096
MOST_GPU_TOKENS = 131_072  # beyond that a GPU is no faster
SHARE = 4  # one part in so many of what is free; the rest is left to other models
# What a token holds at the busiest place of a layer, in widths of the model: queries, keys, values and
# their padded copies 6, what goes in and comes out 4, the feed-forward part and its activation 8, the
# float32 copy for pooling 2; and the scores' bias of the families that have one, up to 8.
WIDTHS = 28


def auto_token_budget(device: str, available_bytes: int, width: int, value_bytes: int) -> int:
    """Tokens that an embedding model computes together where nobody has said.

    Args:
        device: where it computes.
        available_bytes: what is free there once the model is loaded.
        width: length of a token's vector.
        value_bytes: of one number of it.
    """
    if not device.startswith("cuda"):
        return CPU_TOKENS
    room = available_bytes // SHARE // (WIDTHS * width * value_bytes)
    return min(MOST_GPU_TOKENS, max(LEAST_GPU_TOKENS, room))
