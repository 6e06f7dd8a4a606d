"""One ``embed`` request on its way through the engine's threads: its rows, its one answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.answer import Answer
from hybrid_infer.local.embedding.texts import CHARACTERS_PER_SLICE, RequestTexts, Slice
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts, Tokenizer
from hybrid_infer.local.embedding.vectors import new_vectors
from hybrid_infer.local.translation import as_local_error
from hybrid_infer.local.waiting import too_late


class EmbedJob(Answer[EmbedReply]):
    """One request that other threads compute.

    Rows are written into one array as batches finish, and with the last one it has its reply.

    Args:
        texts: what to embed.
        deadline: when it must be done; renewed by every batch.
        provenance: what to say of the weights.

    Attributes:
        texts: what to embed.
        queued_at: when it was queued, until its first batch begins; None if nobody asks.
    """

    __slots__ = ("_left", "_provenance", "_vectors", "deadline", "queued_at", "texts")

    def __init__(self, texts: RequestTexts, deadline: Deadline, provenance: Provenance) -> None:
        super().__init__()
        self.texts = texts
        self.deadline = deadline
        self.queued_at: float | None = None
        self._provenance = provenance
        self._left = 0
        self._vectors: NDArray[np.float32] | None = None

    def fail_if_late(self) -> bool:
        """Whether its deadline is over; then it has its answer."""
        if not self.deadline.expired():
            return False
        self.fail(too_late(self.deadline))
        return True

    def put(self, source: Slice, places: list[int], rows: NDArray[np.float32]) -> None:
        """Store the rows of sequences; the last ones answer the caller.

        Args:
            source: to what they belong.
            places: which of its sequences.
            rows: ``(sequences, dim)``.
        """
        if self.texts.num_sequences == 1:
            self.give(self.texts.reply(rows.copy(), self._provenance))  # the batch's are many more
            return
        indices = [source.indices[place] for place in places]
        with self._lock:  # several lanes put rows
            if self._vectors is None:
                self._left = self.texts.num_sequences
                self._vectors = new_vectors(self._left, rows.shape[1])
            self._vectors[indices] = rows
            self._left -= len(indices)
            if self._left:
                return
        self.give(self.texts.reply(self._vectors, self._provenance))


def within_a_slice(jobs: Iterable[EmbedJob]) -> list[EmbedJob]:
    """The first of `jobs`, and those that follow as long as all their texts are one slice."""
    found: list[EmbedJob] = []
    characters = 0
    for job in jobs:
        characters += job.texts.num_characters
        if found and characters > CHARACTERS_PER_SLICE:
            break
        found.append(job)
    return found


def tokenize_jobs(tokenizer: Tokenizer, jobs: Sequence[EmbedJob]) -> list[tuple[EmbedJob, Slice]]:
    """Tokenise the next slice of each job, all in one go; a job that this fails for gets its error.

    Returns:
        The new sequences of each job that goes on.
    """
    slices = [job.texts.next_slice() for job in jobs]
    try:
        tokenized = tokenizer([text for part in slices for text in part])
    except Exception as error:  # noqa: BLE001 - translated as every fault of the tokenizer
        if len(jobs) > 1:
            return [done for job in jobs for done in tokenize_jobs(tokenizer, [job])]
        jobs[0].fail(as_local_error("tokenising", error))
        return []
    counts = list(map(len, slices))
    cut = tokenized.cut
    done, stop = [], 0
    for job, count, tokens in zip(jobs, counts, tokenized.ids.split(counts), strict=True):
        start, stop = stop, stop + count
        own = TokenizedTexts(tokens, [place - start for place in cut if start <= place < stop])
        try:
            done.append((job, job.texts.take_tokens(own, tokenizer.max_seq_length)))
        except HybridInferError as error:
            job.fail(error)
    return done
