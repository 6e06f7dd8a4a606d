"""One ``embed`` request on its way through the engine: its texts, its rows, its one answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import ContextLengthError, HybridInferError
from hybrid_infer.local.embedding.tokenizing import TextTokenizer

TEXTS_PER_SLICE = 1024
CHARACTERS_PER_SLICE = 131_072
CHARACTERS_PER_TOKEN = 4  # of English text; only how full the queue is depends on it


class EmbedJob:
    """One request.

    Equal texts are computed once. Rows are written into one array as batches finish, and the
    last one resolves the future.

    Args:
        request: what to embed.
        deadline: when it must be done; renewed by every batch.
        provenance: what to say of the weights.

    Attributes:
        future: gets the reply or a typed error, once.
        num_texts: texts of the request.
        num_tokens: their tokens; an estimate until they are tokenised.
    """

    def __init__(self, request: EmbedRequest, deadline: Deadline, provenance: Provenance) -> None:
        self.request = request
        self.deadline = deadline
        self.future: Future[EmbedReply] = Future()
        self.num_characters = sum(map(len, request.texts))
        self.num_texts = len(request.texts)
        self.num_tokens = self.num_characters // CHARACTERS_PER_TOKEN + self.num_texts
        self._provenance = provenance
        # Distinct texts, which of them each text of the request is, and how often each occurs.
        self._texts: list[str] = []
        self._numbers: list[int] = []
        self._counts: list[int] = []
        self._slices: Iterator[list[int]] | None = None
        self._next: list[int] = []
        self._tokens: dict[int, NDArray[np.int32]] = {}
        self._is_cut: list[bool] = []
        self._prompt_tokens = 0
        self._lock = threading.Lock()  # several lanes put rows
        self._left = 0
        self._vectors: NDArray[np.float32] | None = None

    # Tokenising ------------------------------------------------------------------------------

    def tokenize(self, tokenizer: TextTokenizer) -> list[tuple[int, int]]:
        """Tokenise the next slice of texts; the longest texts come first.

        Returns:
            ``(index, tokens)`` of each sequence that is new.

        Raises:
            ContextLengthError: a text is too long and may not be cut.
        """
        if self._slices is None:
            self._split()
        indices, self._next = self._next, next(self._slices or iter(()), [])
        tokenized = tokenizer([self._texts[index] for index in indices])
        lengths = []
        for index, ids, is_cut in zip(indices, tokenized.ids, tokenized.truncated, strict=True):
            if is_cut and not self.request.truncate:
                raise self._too_long(index, tokenizer)
            self._tokens[index] = ids
            self._is_cut[index] = is_cut
            self._prompt_tokens += len(ids) * self._counts[index]
            lengths.append((index, len(ids)))
        return lengths

    def _split(self) -> None:
        numbers: dict[str, int] = {}
        self._numbers = [numbers.setdefault(text, len(numbers)) for text in self.request.texts]
        self._texts = list(numbers)
        self._left = len(self._texts)
        self._counts = [0] * self._left
        for number in self._numbers:
            self._counts[number] += 1
        self._is_cut = [False] * self._left
        self._slices = _slices(self._texts)
        self._next = next(self._slices)

    def _too_long(self, index: int, tokenizer: TextTokenizer) -> ContextLengthError:
        argument = f"texts[{self._numbers.index(index)}]"
        return ContextLengthError(
            f"{argument} has more than the {tokenizer.max_seq_length} tokens of "
            f"{self.request.spec.name}; pass truncate=True to cut it",
            argument=argument,
        )

    @property
    def is_tokenized(self) -> bool:
        """Whether no slice is left."""
        return self._slices is not None and not self._next

    # Computing -------------------------------------------------------------------------------

    def tokens(self, index: int) -> NDArray[np.int32]:
        """The token ids of a sequence whose row is not there yet."""
        return self._tokens[index]

    def put(self, index: int, row: NDArray[np.float32]) -> None:
        """Store the row of a sequence; the last one answers the caller."""
        with self._lock:
            if self._vectors is None:
                self._vectors = np.empty((len(self._texts), len(row)), np.float32)
            self._vectors[index] = row
            del self._tokens[index]
            self._left -= 1
            if self._left:
                return
        self._finish(self._vectors)

    def _finish(self, vectors: NDArray[np.float32]) -> None:
        if len(self._texts) < self.num_texts:
            vectors = vectors[self._numbers]
        cut = {index for index, number in enumerate(self._numbers) if self._is_cut[number]}
        num_cut = len(cut.union(self.request.cut_texts))
        reply = EmbedReply(vectors, self._prompt_tokens, num_cut, self._provenance)
        with suppress(InvalidStateError):  # the caller left in this very moment
            self.future.set_result(reply)

    # Ending ----------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether it has its answer, or nobody waits for one."""
        return self.future.done()

    def fail(self, error: HybridInferError) -> None:
        """Answer with an error, unless there is an answer."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def abandon(self) -> None:
        """The caller has gone: what is not computed yet never will be."""
        self.future.cancel()


def _slices(texts: list[str]) -> Iterator[list[int]]:
    """Indices by falling length in characters, so that the slices' lengths in tokens fall too."""
    part: list[int] = []
    characters = 0
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        if part and (
            len(part) == TEXTS_PER_SLICE or characters + len(texts[index]) > CHARACTERS_PER_SLICE
        ):
            yield part
            part, characters = [], 0
        part.append(index)
        characters += len(texts[index])
    yield part
