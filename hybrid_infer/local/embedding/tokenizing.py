"""From texts to token ids, in the Rust tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_infer.errors import ModelIntegrityError


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids of each text, special tokens included, and which texts were cut to fit."""

    ids: list[list[int]]
    truncated: list[bool]


class TextTokenizer:
    """A snapshot's tokenizer, cut at its model's limit.

    Args:
        path: the snapshot's folder.
        max_seq_length: tokens per text, special tokens included; None: no limit.
        prompt: text put before every input.

    Raises:
        ModelIntegrityError: tokenizer.json is damaged.
    """

    def __init__(self, path: Path, max_seq_length: int | None, prompt: str = "") -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for a damaged file
            raise ModelIntegrityError(f"{path / 'tokenizer.json'} is damaged: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if max_seq_length is not None:
            self._tokenizer.enable_truncation(max_seq_length)
        self.max_seq_length = max_seq_length
        self._prompt = prompt
        self._lowercases = _lowercases(path)

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise `texts`, in order."""
        prepared = [self._prepared(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prepared)
        return TokenizedTexts(
            [encoding.ids for encoding in encodings],
            [bool(encoding.overflowing) for encoding in encodings],
        )

    def _prepared(self, text: str) -> str:
        text = self._prompt + text if self._prompt else text
        return text.lower() if self._lowercases else text


def _lowercases(path: Path) -> bool:
    """Whether sentence-transformers would lower-case a text before this tokenizer sees it."""
    config = path / "sentence_bert_config.json"
    return config.exists() and bool(json.loads(config.read_bytes()).get("do_lower_case"))
