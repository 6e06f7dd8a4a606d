"""From a row of logits to a token. Pure: randomness is an argument, the global generator untouched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: keep the likeliest tokens that together reach this mass; None or 1 keeps all.
        top_k: keep that many tokens; None keeps all.
    """

    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None


def sample(logits: Tensor, options: SamplingOptions, generator: torch.Generator) -> int:
    """Choose a token.

    Temperature first, then top-k, then top-p, the order of transformers and of the remotes.

    Args:
        logits: ``(vocabulary,)``.
        options: how to choose.
        generator: the request's own source of randomness.
    """
    if options.temperature == 0.0:
        return int(logits.argmax())
    scores = logits.float() / options.temperature
    if options.top_k is not None and options.top_k < scores.numel():
        scores = _keep_top_k(scores, options.top_k)
    if options.top_p is not None and options.top_p < 1.0:
        scores = _keep_top_p(scores, options.top_p)
    return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))


def _keep_top_k(scores: Tensor, count: int) -> Tensor:
    threshold = scores.topk(count).values[-1]
    return scores.masked_fill(scores < threshold, -torch.inf)


def _keep_top_p(scores: Tensor, mass: float) -> Tensor:
    ordered, order = scores.sort(descending=True)
    probabilities = ordered.softmax(-1)
    # A token stays while the mass before it is still below the target, so one always does.
    before = probabilities.cumsum(-1) - probabilities
    dropped = torch.zeros_like(scores, dtype=torch.bool).scatter(0, order, before >= mass)
    return scores.masked_fill(dropped, -torch.inf)
