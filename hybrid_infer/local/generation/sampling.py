"""From a row of logits to a token. Pure: randomness is an argument, the global generator untouched.

A vocabulary has 32,000 to 128,000 tokens, and sorting them takes milliseconds on a CPU. What top-k,
top-p and min-p keep is a beginning of the sorted row, nearly always a short one: so only the tokens
above a cut are sorted, once it is certain that what is kept lies above it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybrid_infer.local.generation.options import GenerationOptions

CUTS = (1e-2, 1e-4, 1e-6)  # as fractions of the likeliest token's probability
CERTAIN = 1.0 + 1e-9  # a mass above its target by this much is above it whatever rounding did


def sample(logits: Tensor, options: GenerationOptions, generator: torch.Generator) -> int:
    """Choose a token.

    Temperature first, then top-k, top-p and min-p, the order of transformers. Tokens that tie with
    the last one that top-k keeps are kept too, as there.

    Args:
        logits: float32 ``(vocabulary,)``; -inf rules a token out.
        options: how to choose.
        generator: the request's own source of randomness; the choice is computed on its device.
    """
    if options.is_greedy:
        return int(logits.argmax())
    logits = logits.to(generator.device)
    # Relative to the likeliest token, whose weight is 1.
    weights = logits.sub(logits.max()).div_(options.temperature).exp_()
    if options.top_k is None and options.top_p >= 1.0 and options.min_p <= 0.0:
        return _drawn(weights, generator)
    tokens = _candidates(weights, options)
    ordered, order = weights[tokens].sort(descending=True)
    count = _num_kept(ordered, weights, options)
    return int(tokens[order[_drawn(ordered[:count], generator)]])


def _drawn(weights: Tensor, generator: torch.Generator) -> int:
    """An index, drawn in proportion to its weight: the inverse of the cumulated weights."""
    mass = weights.cumsum(-1, dtype=torch.float64)
    point = torch.rand(1, generator=generator, device=mass.device, dtype=torch.float64) * mass[-1]
    return min(int(torch.searchsorted(mass, point, right=True)), weights.numel() - 1)


def _candidates(weights: Tensor, options: GenerationOptions) -> Tensor:
    """Tokens among which are all those that will be kept."""
    for cut in CUTS:
        tokens = _at_least(weights, cut)
        if _are_enough(tokens, cut, weights, options):
            return tokens
    if options.top_k is not None and options.top_k < weights.numel():
        return _at_least(weights, float(weights.topk(options.top_k).values[-1]))
    return torch.arange(weights.numel(), device=weights.device)


def _are_enough(tokens: Tensor, cut: float, weights: Tensor, options: GenerationOptions) -> bool:
    has_all_of_min_p = options.min_p >= cut
    if options.top_k is not None:  # top-p's target is a share of the mass that top-k keeps
        has_all_of_top_k = tokens.numel() >= options.top_k
        return has_all_of_top_k or (has_all_of_min_p and options.top_p >= 1.0)
    if has_all_of_min_p or options.top_p >= 1.0:
        return has_all_of_min_p
    total = weights.sum(dtype=torch.float64)
    return bool(weights[tokens].sum(dtype=torch.float64) > total * (options.top_p * CERTAIN))


def _at_least(weights: Tensor, cut: float) -> Tensor:
    """The tokens of at least that weight, in their order."""
    above = weights >= cut
    if above.is_cpu:  # numpy finds few among many four times as fast
        return torch.from_numpy(np.flatnonzero(above.numpy()))
    return above.nonzero().squeeze(-1)


def _num_kept(ordered: Tensor, weights: Tensor, options: GenerationOptions) -> int:
    """How many of the candidates are kept.

    Args:
        ordered: the candidates' weights, largest first.
        weights: all tokens' weights.
        options: how to choose.
    """
    count = ordered.numel()
    if options.top_k is not None and options.top_k < count:
        count = int((ordered >= ordered[options.top_k - 1]).sum())
    if options.top_p < 1.0:
        whole = weights if options.top_k is None else ordered[:count]
        mass = ordered[:count].cumsum(-1, dtype=torch.float64)
        # A token stays while the mass before it is below the target, so one always does.
        target = whole.sum(dtype=torch.float64) * options.top_p
        count = min(count, 1 + int((mass[:-1] < target).sum()))
    if options.min_p > 0.0:
        count = min(count, max(1, int((ordered >= options.min_p).sum())))
    return count
