"""Which texts are computed together. Pure: lengths in, batches of indices out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def plan_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, none above the budget.

    The longest go first, so that memory is highest at the start and a budget that is too large
    shows at once. A single text longer than the budget is a batch of its own.

    Args:
        lengths: tokens of each text.
        token_budget: real tokens of a batch at most; nothing is padded.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batch: list[int] = []
    tokens = 0
    for index in order:
        if batch and tokens + lengths[index] > token_budget:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


def equal_length_groups(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of equal length in a batch: ``(first token, number of texts, tokens of each)``."""
    groups: list[tuple[int, int, int]] = []
    start = index = 0
    while index < len(lengths):
        length, first = lengths[index], index
        while index < len(lengths) and lengths[index] == length:
            index += 1
        groups.append((start, index - first, length))
        start += (index - first) * length
    return groups
