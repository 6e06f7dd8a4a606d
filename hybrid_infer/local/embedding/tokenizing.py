"""From texts to token ids, in the Rust tokenizer or, where it gives the same, in our own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.long_texts import NEVER_CUT_CHARACTERS, cut_long_text
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.embedding.wordpieces import native_tokenizer
from hybrid_infer.local.native.wordpiece import CUT, REFUSED, WHOLE
from hybrid_infer.snapshots.reading import read_optional
from hybrid_infer.snapshots.sentence_config import tokenizer_options
from hybrid_infer.snapshots.tokenizer import read_tokenizer

# Up to here a text alone is tokenised under the interpreter's lock: that takes less than to wake a
# thread of the tokenizer's own pool.
ALONE_CHARACTERS = 1_024


class TokenizedTexts(NamedTuple):
    """Token ids of each text, special tokens included, and which texts were cut to fit."""

    ids: Tokens
    cut: Sequence[int]


class Tokenizer(Protocol):
    """Turns texts into token ids; several threads may use it.

    Attributes:
        max_seq_length: tokens per text, special tokens included; None: no limit.
    """

    max_seq_length: int | None

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise `texts`, in order."""
        ...


class Stopwatch:
    """A tokenizer that notes how long it takes.

    Args:
        tokenizer: does the work.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, tokenizer: Tokenizer, clock: Clock) -> None:
        self._tokenizer, self._clock = tokenizer, clock
        self.max_seq_length = tokenizer.max_seq_length
        self._lock = threading.Lock()
        self._seconds = 0.0

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """See `Tokenizer.__call__`."""
        started = self._clock()
        try:
            return self._tokenizer(texts)
        finally:
            with self._lock:
                self._seconds += self._clock() - started

    def take_seconds(self) -> float:
        """The time that it took since this was asked last."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds


class TextTokenizer:
    """A snapshot's tokenizer, cut at its model's limit. Never changed once made: threads share it.

    Args:
        path: the snapshot's folder.
        max_seq_length: tokens per text, special tokens included; None: no limit.
        prompt: text put before every input.

    Raises:
        ModelIntegrityError: tokenizer.json is damaged, or long texts are to lose their beginning.
    """

    def __init__(self, path: Path, max_seq_length: int | None, prompt: str = "") -> None:
        from tokenizers.normalizers import Lowercase
        from tokenizers.normalizers import Sequence as Steps

        self._tokenizer = read_tokenizer(path / "tokenizer.json")
        if max_seq_length is not None:
            _check_side(path, self._tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if _lowercases(path):
            own = self._tokenizer.normalizer
            steps = [Lowercase()] if own is None else [Lowercase(), own]
            self._tokenizer.normalizer = Steps(steps)
        self._native = native_tokenizer(self._tokenizer, max_seq_length)
        if max_seq_length is not None:
            self._tokenizer.enable_truncation(max_seq_length)
        self.max_seq_length = max_seq_length
        self._prompt = prompt

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise `texts`, in order."""
        if self._prompt:
            texts = [self._prompt + text for text in texts]
        if self._native is None:
            return self._tokenized_by_rust(texts)
        ids, lengths, states = self._native(texts)
        tokens = Tokens(ids, lengths)
        if states.count(WHOLE) == len(states):  # as a rule
            return TokenizedTexts(tokens, ())
        refused = [number for number, state in enumerate(states) if state == REFUSED]
        cut = [number for number, state in enumerate(states) if state == CUT]
        if refused:
            rest = self._tokenized_by_rust([texts[number] for number in refused])
            parts = list(tokens)
            for number, own in zip(refused, rest.ids, strict=True):
                parts[number] = own
            tokens = Tokens.of(parts)
            cut = sorted([*cut, *(refused[number] for number in rest.cut)])
        return TokenizedTexts(tokens, cut)

    def _tokenized_by_rust(self, texts: Sequence[str]) -> TokenizedTexts:
        if len(texts) == 1 and len(texts[0]) <= ALONE_CHARACTERS:
            encoding = self._tokenizer.encode(texts[0])
            encodings = [encoding]
        else:
            encodings = self._tokenizer.encode_batch_fast(self._shortened(texts))
        return TokenizedTexts(
            Tokens.of(encoding.ids for encoding in encodings),
            [number for number, encoding in enumerate(encodings) if encoding.overflowing],
        )

    def _shortened(self, texts: Sequence[str]) -> list[str]:
        """`texts` without what is far beyond the limit: unlike our own, this tokenizer reads it all."""
        if self.max_seq_length is None or max(map(len, texts), default=0) <= NEVER_CUT_CHARACTERS:
            return list(texts)
        # One token more than fits, so that the tokenizer itself says what it has cut.
        most = self.max_seq_length + 1
        return [cut_long_text(text, most).text for text in texts]


def _check_side(path: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that cuts at the left: no remote does, so that two vectors would be of one text.

    What transformers is told of counts, else what tokenizer.json says.
    """
    stored = tokenizer.truncation or {}
    if tokenizer_options(path).get("truncation_side", stored.get("direction")) == "left":
        raise ModelIntegrityError(
            f"the tokenizer in {path} cuts long texts at their beginning (truncation_side: left); "
            "remotes cut at the end, so a text would have another vector there"
        )


def _lowercases(path: Path) -> bool:
    """Whether sentence-transformers puts a lower-casing step before the tokenizer's own.

    The option is kept in a file named after the architecture: ``sentence_bert_config.json``,
    ``sentence_roberta_config.json`` and so on; the first that says anything counts.
    """
    stated = (read_optional(file) for file in sorted(path.glob("sentence_*_config.json")))
    return bool(next(filter(None, stated), {}).get("do_lower_case"))
