"""From a row of logits to a token. Pure: randomness is an argument, no global generator is touched.

It is computed by numpy on a CPU, whatever computed the logits: there its sorts are twenty times as
fast as torch's, and a seed means the same on every device. A vocabulary has 32,000 to 128,000
tokens; only those that may be kept are sorted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.local.generation.options import GenerationOptions

Scores = NDArray[np.float32]
Tokens = NDArray[np.intp]

BLOCK = 256
CUTS = (1e-2, 1e-4)  # as fractions of the likeliest token's probability
CERTAIN = 1.0 + 1e-9  # a mass above its target by this much is above it whatever rounding did


def sample(logits: Scores, options: GenerationOptions, generator: np.random.Generator) -> int:
    """Choose a token.

    Temperature first, then top-k, top-p and min-p, the order of transformers. Tokens that tie with
    the last one that top-k keeps are kept too, as there.

    Args:
        logits: float32 ``(vocabulary,)``; -inf rules a token out.
        options: how to choose.
        generator: the request's own source of randomness.
    """
    if options.is_greedy:
        return int(logits.argmax())
    scores = logits - logits.max()  # 0 for the likeliest token
    scores /= options.temperature
    tokens: Tokens | None = None  # those that are kept; None: all
    if options.top_k is not None and options.top_k < scores.size:
        tokens = _top_k(scores, options.top_k)
    if options.top_p < 1.0:
        tokens = _top_p(scores, tokens, options.top_p)
    if options.min_p > 0.0:
        least = math.log(options.min_p)
        tokens = (
            np.flatnonzero(scores >= least) if tokens is None else tokens[scores[tokens] >= least]
        )
    if tokens is None:
        return _drawn(np.exp(scores, out=scores), generator)
    return int(tokens[_drawn(np.exp(scores[tokens]), generator)])


def _top_k(scores: Scores, count: int) -> Tokens:
    place = scores.size - count
    return np.flatnonzero(scores >= np.partition(scores, place)[place])


def _top_p(scores: Scores, tokens: Tokens | None, share: float) -> Tokens:
    """The fewest tokens that together have `share` of the mass of `tokens`; of equals, the first."""
    weights = np.exp(scores if tokens is None else scores[tokens])
    target = weights.sum(dtype=np.float64) * share
    ordered = np.sort(_largest(weights, target))[::-1]
    # A token stays while the mass before it is below the target, so one always does.
    mass = ordered[:-1].cumsum(dtype=np.float64)
    count = 1 + int(np.searchsorted(mass, target))
    least = ordered[count - 1]
    kept = np.flatnonzero(weights >= least)
    if kept.size > count:
        equals = np.flatnonzero(weights[kept] == least)
        kept = np.delete(kept, equals[count - kept.size :])
    return kept if tokens is None else tokens[kept]


def _largest(weights: Scores, target: float) -> Scores:
    """The largest weights, as many as surely reach `target` together."""
    for cut in CUTS:
        largest = weights[np.flatnonzero(weights >= cut)]
        if largest.sum(dtype=np.float64) > target * CERTAIN:
            return largest
    return weights


def _drawn(weights: Scores, generator: np.random.Generator) -> int:
    """An index, drawn in proportion to its weight: the inverse of the cumulated weights.

    Many weights are cumulated in two steps, blocks first: only one block is looked into.
    """
    whole = weights.size // BLOCK * BLOCK
    blocks = weights[:whole].reshape(-1, BLOCK).sum(-1, dtype=np.float64)
    mass = np.append(blocks, weights[whole:].sum(dtype=np.float64)).cumsum()
    point = generator.random() * mass[-1]
    block = _place(mass, point)
    before = mass[block - 1] if block else 0.0
    inside = weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    return block * BLOCK + _place(inside, point - before)


def _place(mass: NDArray[np.float64], point: float) -> int:
    """Whose share of the cumulated `mass` holds `point`; never one without a share."""
    inside = min(max(point, 0.0), math.nextafter(mass[-1], 0.0))
    return int(np.searchsorted(mass, inside, side="right"))
