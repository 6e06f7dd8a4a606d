"""The draw is exactly what transformers' processors and a fair die would give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.local.generation.options import GenerationOptions
from hybrid_infer.local.generation.sampling import sample

DRAWS = 2000


class EveryQuantile:
    """Randomness without chance: one draw from each slice of [0, 1)."""

    def __init__(self, count=DRAWS):
        self.left = list((np.arange(count) + 0.5) / count)

    def random(self):
        return self.left.pop()


def reference(logits, options):
    """Probabilities by transformers' own processors, in its order."""
    from transformers import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    scores = torch.from_numpy(logits)[None]
    steps = [TemperatureLogitsWarper(options.temperature)]
    if options.top_k is not None:
        steps.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        steps.append(TopPLogitsWarper(options.top_p))
    if options.min_p > 0:
        steps.append(MinPLogitsWarper(options.min_p))
    for step in steps:
        scores = step(None, scores)
    return scores.softmax(-1)[0].double().numpy()


def frequencies(logits, options):
    randomness = EveryQuantile()
    counts = np.zeros(logits.size)
    for _ in range(DRAWS):
        counts[sample(logits, options, randomness)] += 1
    return counts / DRAWS


OPTIONS = [
    {},
    {"temperature": 0.6, "top_p": 0.9},
    {"temperature": 2.0},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10**6},
    {"top_k": 20, "top_p": 0.8},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.1, "temperature": 0.8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("width", [0.3, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("size", [50, 1500])
def test_each_token_comes_as_often_as_it_should(options, width, size):
    logits = np.random.default_rng(size).normal(0, width, size).astype(np.float32)
    wanted = GenerationOptions(1, **options)
    expected = reference(logits, wanted)
    got = frequencies(logits, wanted)
    # One slice at each end of a token's share may fall to a neighbour.
    np.testing.assert_allclose(got, expected, atol=2.01 / DRAWS)
    assert not got[expected == 0].any()


@given(
    st.lists(st.floats(-30, 30, width=32) | st.just(-np.inf), min_size=2, max_size=40),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(OPTIONS),
)
@settings(max_examples=300)
def test_what_is_ruled_out_is_never_drawn(values, point, options):
    logits = np.array([*values, 0.0], np.float32)
    randomness = EveryQuantile(0)
    randomness.left = [point]
    token = sample(logits, GenerationOptions(1, **options), randomness)
    assert logits[token] > -np.inf


def test_of_equals_top_k_keeps_all_and_top_p_only_what_it_needs():
    equal = np.zeros(10, np.float32)
    assert (frequencies(equal, GenerationOptions(1, top_k=3)) > 0).all()
    drawn = frequencies(equal, GenerationOptions(1, top_p=0.25))
    np.testing.assert_allclose(drawn[:3], 1 / 3, atol=1 / DRAWS)
    assert not drawn[3:].any()


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_no_temperature_is_greedy(temperature):
    logits = np.array([0.1, 3.0, 2.9], np.float32)
    assert sample(logits, GenerationOptions(1, temperature=temperature), EveryQuantile()) == 1


def test_a_seed_reproduces_and_global_generators_stay_untouched():
    before, logits = (torch.get_rng_state(), np.random.get_state()[1].copy()), np.zeros(50)  # noqa: NPY002

    def draws(seed):
        generator = np.random.default_rng(seed)
        return [sample(logits, GenerationOptions(1), generator) for _ in range(20)]

    assert draws(11) == draws(11) != draws(12)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
