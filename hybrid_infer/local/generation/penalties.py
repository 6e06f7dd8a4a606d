"""Penalties on tokens that have been said already.

Sources: https://platform.openai.com/docs/api-reference/chat/create (frequency, presence);
transformers' ``RepetitionPenaltyLogitsProcessor`` (https://arxiv.org/abs/1909.05858).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from hybrid_infer.local.generation.options import GenerationOptions


class Penalties:
    """The penalties of one answer, as a step between logits and choice.

    Repetition goes first, over prompt and answer; frequency and presence follow, over the answer.

    Args:
        options: how strong they are.
        prompt: its tokens.
        answer: tokens of the answer that goes on.
        most: tokens that may be pushed.
        device: of the logits.
    """

    def __init__(
        self,
        options: GenerationOptions,
        prompt: Sequence[int],
        answer: Sequence[int],
        most: int,
        device: torch.device,
    ) -> None:
        self._options = options
        self._counts: Counter[int] = Counter()
        said = sorted({*prompt, *answer})
        self._said = torch.zeros(len(said) + most, dtype=torch.long, device=device)
        self._said[: len(said)] = torch.tensor(said, dtype=torch.long, device=device)
        self._num_said = len(said)
        self._charge: Tensor | None = None  # (vocabulary,): what frequency and presence take
        self._earlier = tuple(answer)

    @staticmethod
    def are_asked(options: GenerationOptions) -> bool:
        """Whether there are any."""
        return (
            options.repetition_penalty != 1.0
            or options.frequency_penalty != 0.0
            or options.presence_penalty != 0.0
        )

    def adjusted(self, logits: Tensor) -> Tensor:
        """`logits`, ``(vocabulary,)``, after the penalties."""
        if self._charge is None:
            self._charge = torch.zeros_like(logits)
            for token in self._earlier:
                self._count(token)
        penalty = self._options.repetition_penalty
        adjusted = logits - self._charge
        if penalty != 1.0:
            said = self._said[: self._num_said]
            values = logits[said]
            values = torch.where(values < 0, values * penalty, values / penalty)
            adjusted[said] = values - self._charge[said]
        return adjusted

    def push(self, token: int) -> None:
        """`token` has been chosen."""
        self._said[self._num_said] = token  # twice the same is as good as once
        self._num_said += 1
        self._count(token)

    def _count(self, token: int) -> None:
        self._counts[token] += 1
        if self._charge is not None:
            self._charge[token] = (
                self._options.presence_penalty
                + self._counts[token] * self._options.frequency_penalty
            )
