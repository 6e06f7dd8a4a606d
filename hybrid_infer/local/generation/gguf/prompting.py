"""A GGUF file's prompts, and its vocabulary as log-probabilities and grammars see it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from hybrid_infer.local.generation.gguf.tokenizer import GgufTokenizer
from hybrid_infer.local.generation.marks import Mark
from hybrid_infer.local.generation.prompting import Prompter


class GgufPrompter(Prompter):
    """A `Prompter` over a file's own tokenizer, which knows the bytes of its tokens.

    Args:
        path: the file.
        context_length: the model's window in tokens.
        tokenizer: the file's.

    Raises:
        ModelIntegrityError: the file has no chat template.
    """

    def __init__(self, path: Path, context_length: int, tokenizer: GgufTokenizer) -> None:
        self._gguf = tokenizer
        super().__init__(path, context_length, tokenizer)

    def _vocabulary_marks(self) -> list[Mark]:
        return [Mark(name, token) for name, token in self._gguf.get_added_vocab().items()]

    def spell(self, token: int) -> bytes:
        """See `Prompter.spell`."""
        return self._gguf.spell(token)

    def _make_grammar_vocabulary(self, ends: Collection[int]) -> Any:
        return self._gguf.grammar_vocabulary(ends)
