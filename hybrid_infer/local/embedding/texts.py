"""The texts of one ``embed`` request, from strings to token ids and from rows to its reply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import mul
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import ContextLengthError
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts, Tokenizer
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.embedding.vectors import new_vectors

# Up to here a request is tokenised by its caller, or by who computes next: that takes less than the hop
# to another thread.
SHORT_TEXTS = 8
SHORT_CHARACTERS = 4_096
TEXTS_PER_SORT = 16_384
TEXTS_PER_SLICE = 1024
CHARACTERS_PER_SLICE = 32_768  # of a request's first
MOST_CHARACTERS_PER_SLICE = 8 * CHARACTERS_PER_SLICE
CHARACTERS_PER_TOKEN = 4  # of English text; only how full the queue is depends on it
MOST_SORTED = 32_767  # characters; numpy sorts sixteen bits by counting, and few texts are longer
NONE_CUT: frozenset[int] = frozenset()  # one for all: there are as many requests as callers


class Slice(NamedTuple):
    """Sequences of a request that were tokenised together.

    Attributes:
        indices: which of the request's sequences each is.
        tokens: what they have become.
    """

    indices: Sequence[int]
    tokens: Tokens


class RequestTexts:
    """The texts of one request, of which equal ones are one sequence.

    Args:
        request: what to embed.

    Attributes:
        request: what to embed.
        num_characters: of all texts.
        num_texts: texts of the request.
        num_tokens: their tokens; an estimate until they are tokenised.
    """

    __slots__ = (
        "_counts",
        "_cut",
        "_next",
        "_numbers",
        "_prompt_tokens",
        "_slices",
        "_texts",
        "num_characters",
        "num_texts",
        "num_tokens",
        "request",
    )

    def __init__(self, request: EmbedRequest) -> None:
        texts = request.texts
        self.request = request
        self.num_texts = len(texts)
        self.num_characters = len(texts[0]) if self.num_texts == 1 else sum(map(len, texts))
        self.num_tokens = self.num_characters // CHARACTERS_PER_TOKEN + self.num_texts
        # Distinct texts, which of them each text of the request is, and how often each occurs.
        self._texts: Sequence[str] = texts
        self._numbers: Sequence[int] = range(1)
        self._counts: Sequence[int] | None = None  # None: once each
        self._slices: Iterator[Sequence[int]] | None = None
        self._next: Sequence[int] = ()
        self._cut = NONE_CUT
        self._prompt_tokens = 0

    @property
    def is_short(self) -> bool:
        """Whether its texts are one slice, and tokenising them takes next to no time."""
        return self.num_texts <= SHORT_TEXTS and self.num_characters <= SHORT_CHARACTERS

    @property
    def num_sequences(self) -> int:
        """How many of its texts are distinct, once it has been tokenised in part."""
        return len(self._texts)

    @property
    def is_tokenized(self) -> bool:
        """Whether no slice is left."""
        return self._slices is not None and not self._next

    # Tokenising ------------------------------------------------------------------------------

    def tokenize(self, tokenizer: Tokenizer) -> Slice:
        """Tokenise the next slice of texts; the longest texts come first.

        Raises:
            ContextLengthError: a text is too long and may not be cut.
        """
        return self.take_tokens(tokenizer(self.next_slice()), tokenizer.max_seq_length)

    def next_slice(self) -> list[str]:
        """The texts that are to be tokenised next."""
        if self._slices is None:
            if self.num_texts == 1:
                self._slices, self._next = iter(()), range(1)
            else:
                self._split()
                self._slices = _slices(self._texts)
                self._next = next(self._slices)
        return list(map(self._texts.__getitem__, self._next))

    def take_tokens(self, tokenized: TokenizedTexts, max_seq_length: int | None) -> Slice:
        """What `next_slice` has become.

        Args:
            tokenized: token ids of each text of the slice.
            max_seq_length: tokens that a text was cut to.

        Raises:
            ContextLengthError: a text is too long and may not be cut.
        """
        indices, self._next = self._next, next(self._slices or iter(()), ())
        tokens = tokenized.ids
        if tokenized.cut:
            self.note_cut([indices[number] for number in tokenized.cut], max_seq_length)
        if self._counts is None:
            self._prompt_tokens += len(tokens.ids)
        else:
            counts = map(self._counts.__getitem__, indices)
            self._prompt_tokens += sum(map(mul, counts, tokens.lengths))
        return Slice(indices, tokens)

    def note_cut(self, numbers: Sequence[int], max_seq_length: int | None) -> None:
        """Some of its distinct texts were cut to `max_seq_length` tokens.

        Raises:
            ContextLengthError: they may not be.
        """
        if not self.request.truncate:
            raise self._too_long(numbers[0], max_seq_length)
        self._cut |= set(numbers)

    def _split(self) -> None:
        if len(set(self.request.texts)) == self.num_texts:
            self._numbers = range(self.num_texts)
            return
        numbers: dict[str, int] = {}
        self._numbers = [numbers.setdefault(text, len(numbers)) for text in self.request.texts]
        self._texts = list(numbers)
        counts = [0] * len(numbers)
        for number in self._numbers:
            counts[number] += 1
        self._counts = counts

    def _too_long(self, index: int, max_seq_length: int | None) -> ContextLengthError:
        argument = f"texts[{self._numbers.index(index)}]"
        return ContextLengthError(
            f"{argument} has more than the {max_seq_length} tokens of "
            f"{self.request.spec.name}; pass truncate=True to cut it",
            argument=argument,
        )

    # Answering -------------------------------------------------------------------------------

    def reply(
        self,
        vectors: NDArray[np.float32],
        provenance: Provenance,
        prompt_tokens: int | None = None,
    ) -> EmbedReply:
        """The answer.

        Args:
            vectors: a row for each sequence, ``(sequences, dim)``.
            provenance: what to say of the weights.
            prompt_tokens: of all texts; None: those of `take_tokens`.
        """
        if len(self._texts) < self.num_texts:
            rows = new_vectors(self.num_texts, vectors.shape[1])
            vectors = np.take(vectors, self._numbers, axis=0, out=rows)
        num_cut = len(self.request.cut_texts)
        if self._cut:
            cut = {index for index, number in enumerate(self._numbers) if number in self._cut}
            num_cut = len(cut | self.request.cut_texts)
        if prompt_tokens is None:
            prompt_tokens = self._prompt_tokens
        return EmbedReply(vectors, prompt_tokens, num_cut, provenance)


def _slices(texts: Sequence[str]) -> Iterator[Sequence[int]]:
    """Indices by falling length in characters, so that the slices' lengths in tokens fall too.

    Of very many texts some are sorted at a time, so that the first can be computed meanwhile. The
    first slice is the smallest, for a lane may wait for it; each takes some time of its own. Python's own
    sort would keep the interpreter from the lanes for milliseconds.
    """
    most_characters = CHARACTERS_PER_SLICE
    for first in range(0, len(texts), TEXTS_PER_SORT):
        some = texts[first : first + TEXTS_PER_SORT]
        lengths = np.fromiter(map(len, some), np.int64, len(some))
        order = np.argsort(-lengths.clip(max=MOST_SORTED).astype(np.int16), kind="stable")
        indices = (order + first).tolist()
        ends = lengths[order].cumsum()
        start = characters = 0
        while start < len(indices):
            most = min(len(indices), start + TEXTS_PER_SLICE)
            stop = int(ends.searchsorted(characters + most_characters, "right"))
            stop = max(start + 1, min(stop, most))
            yield indices[start:stop]
            start, characters = stop, int(ends[stop - 1])
            most_characters = min(2 * most_characters, MOST_CHARACTERS_PER_SLICE)
