"""Constrained decoding: only tokens that a grammar allows can be chosen.

llguidance keeps a parser an answer; a step's mask takes some ten microseconds. What it may spend on
one is bounded, so that a hostile schema ends its own answer and delays no other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid_infer.errors import InvalidRequestError, LocalEngineError
from hybrid_infer.local.generation.grammars import is_dead_end

# llguidance burns 50,000 fuel a millisecond when it compiles and 14,000 in a step, and makes 20,000
# items; a state takes 2 kB.
COMPILE_FUEL = 1_000_000
STEP_FUEL = 100_000
STEP_ITEMS = 50_000
MAX_STATES = 50_000


def vocabulary_of(tokenizer: Any, ends: Collection[int]) -> Any:
    """A tokenizer as llguidance sees it; made once for each, in some 0.3 s.

    Args:
        tokenizer: transformers' fast tokenizer.
        ends: the tokens that end an answer.
    """
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, eos_token=sorted(ends) or None)


class Constraint:
    """The parser of one answer, as a step between logits and choice.

    Args:
        vocabulary: of `vocabulary_of`.
        grammar: of `grammar_of`.

    Raises:
        InvalidRequestError: the grammar is too large for this vocabulary.
    """

    def __init__(self, vocabulary: Any, grammar: str) -> None:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            initial_lexer_fuel=COMPILE_FUEL,
            step_lexer_fuel=STEP_FUEL,
            step_max_items=STEP_ITEMS,
            max_lexer_states=MAX_STATES,
            verbose_errors=False,
        )
        self._matcher = LLMatcher(vocabulary, grammar, limits=limits, log_level=0)
        if self._matcher.is_error():
            raise InvalidRequestError(
                f"response_format cannot be compiled: {self._matcher.get_error()}",
                argument="response_format",
            )

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped()

    def adjusted(self, logits: Tensor) -> Tensor:
        """`logits`, ``(vocabulary,)``, with every token but the allowed ones ruled out.

        Raises:
            LocalEngineError: the grammar has become too costly, or no token may follow.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(logits.numel(), bool)
        known = np.unpackbits(bits, count=min(8 * bits.size, allowed.size), bitorder="little")
        allowed[: known.size] = known
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)

    def push(self, token: int) -> None:
        """`token` has been chosen.

        Raises:
            LocalEngineError: the grammar has become too costly.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if not self._matcher.is_error():
            return
        if is_dead_end(self._matcher):  # its schema can be matched, but not with these tokens
            raise LocalEngineError("response_format allows none of the model's tokens here")
        raise LocalEngineError(f"response_format is too costly: {self._matcher.get_error()}")
