"""One answer's way from logits to tokens: what adjusts them, the draw, and what is told of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hybrid_infer.local.generation.constraining import Constraint
from hybrid_infer.local.generation.grammars import grammar_of
from hybrid_infer.local.generation.healing import Healer, Seam
from hybrid_infer.local.generation.logprobs import Entry, logprob_entry
from hybrid_infer.local.generation.options import GenerationOptions
from hybrid_infer.local.generation.penalties import Penalties
from hybrid_infer.local.generation.prompting import Prompter
from hybrid_infer.local.generation.sampling import sample


class Step(Protocol):
    """Something between logits and choice."""

    def adjusted(self, logits: Tensor) -> Tensor:
        """New logits, ``(vocabulary,)``."""
        ...

    def push(self, token: int) -> None:
        """`token` has been chosen."""
        ...


class Chooser:
    """Chooses the tokens of one answer.

    Args:
        options: how.
        prompter: the model's tokenizer.
        start: where the answer starts.
        ends: the tokens that end an answer.
        device: of the logits.

    Attributes:
        entry: what ``logprobs`` tells of the newest token; None unless it was asked for.

    Raises:
        InvalidRequestError: the grammar of ``response_format`` is too large.
    """

    def __init__(
        self,
        options: GenerationOptions,
        prompter: Prompter,
        start: Seam,
        ends: Collection[int],
        device: torch.device,
    ) -> None:
        self._options = options
        self._spell = prompter.spell
        if options.logprobs:
            prompter.spell(0)  # the vocabulary is read here, not on the thread that decodes
        self.entry: Entry | None = None
        self._steps: list[Step] = []
        if Penalties.are_asked(options):
            most = options.max_tokens
            self._steps.append(Penalties(options, start.prompt, start.kept, most, device))
        if start.piece:
            self._steps.append(Healer(prompter.pieces, prompter.special_tokens, start.piece))
        self._constraint: Constraint | None = None
        if options.response_format is not None:
            vocabulary = prompter.grammar_vocabulary(ends)
            self._constraint = Constraint(vocabulary, grammar_of(options.response_format))
            self._steps.append(self._constraint)
        self._generator = np.random.default_rng(options.seed)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken, so that a batch can choose at once."""
        return self._options.is_greedy and not self._steps and not self._options.logprobs

    @property
    def is_complete(self) -> bool:
        """Whether a grammar allows nothing more."""
        return self._constraint is not None and self._constraint.is_complete

    def choose(self, logits: Tensor) -> int:
        """The next token.

        Args:
            logits: float32 ``(vocabulary,)``.

        Raises:
            LocalEngineError: a grammar has become too costly.
        """
        adjusted = logits
        for step in self._steps:
            adjusted = step.adjusted(adjusted)
        token = sample(adjusted.cpu().numpy(), self._options, self._generator)
        for step in self._steps:
            step.push(token)
        if self._options.logprobs:
            num_tops = self._options.top_logprobs
            self.entry = logprob_entry(logits.cpu().numpy(), token, num_tops, self._spell)
        return token
