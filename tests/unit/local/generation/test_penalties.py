"""Penalties against transformers' processor and against OpenAI's formula."""

import pytest
import torch

from hybrid_infer.local.generation.options import GenerationOptions
from hybrid_infer.local.generation.penalties import Penalties

CPU = torch.device("cpu")
PROMPT, ANSWER = [1, 2, 2, 5], [3, 2, 3, 3, 9]


def penalised(options, logits, *, prompt=PROMPT, earlier=(), pushed=ANSWER):
    penalties = Penalties(GenerationOptions(1, **options), prompt, earlier, 10, CPU)
    for token in pushed:
        penalties.adjusted(logits)  # as the loop does, between two tokens
        penalties.push(token)
    return penalties.adjusted(logits)


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_is_transformers_over_prompt_and_answer(penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(12)
    said = torch.tensor([[*PROMPT, *ANSWER]])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(said, logits[None].clone())[0]
    assert torch.equal(penalised({"repetition_penalty": penalty}, logits), expected)


def by_openai_s_formula(logits, frequency, presence):
    """mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence."""
    expected = logits.clone()
    for token in range(len(expected)):
        count = ANSWER.count(token)
        expected[token] -= count * frequency + (count > 0) * presence
    return expected


@pytest.mark.parametrize(("frequency", "presence"), [(0.5, 0.0), (0.0, -1.5), (1.9, 0.3)])
def test_frequency_and_presence_are_openai_s_over_the_answer(frequency, presence):
    logits = torch.randn(12)
    options = {"frequency_penalty": frequency, "presence_penalty": presence}
    expected = by_openai_s_formula(logits, frequency, presence)
    torch.testing.assert_close(penalised(options, logits), expected)


def test_an_answer_that_goes_on_counts_from_its_start():
    logits = torch.randn(12)
    options = {"frequency_penalty": 0.7, "presence_penalty": 0.2, "repetition_penalty": 1.2}
    whole = penalised(options, logits)
    resumed = penalised(options, logits, earlier=ANSWER[:3], pushed=ANSWER[3:])
    torch.testing.assert_close(resumed, whole)


def test_repetition_goes_first():
    logits = torch.tensor([2.0, -2.0])
    options = {"frequency_penalty": 0.5, "repetition_penalty": 2.0}
    adjusted = penalised(options, logits, prompt=[1], pushed=[0])
    assert adjusted.tolist() == [0.5, -4.0]


def test_the_logits_themselves_stay_as_they_are():
    logits = torch.randn(12)
    before = logits.clone()
    penalised({"frequency_penalty": 1.0, "repetition_penalty": 1.5}, logits)
    assert torch.equal(logits, before)


def test_no_penalty_is_no_step():
    assert not Penalties.are_asked(GenerationOptions(1))
    for option in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
        assert Penalties.are_asked(GenerationOptions(1, **{option: 0.5}))
