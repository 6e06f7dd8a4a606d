"""One ``embed`` request on its way through the engine's threads: its rows, its one answer."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.embedding.texts import CHARACTERS_PER_SLICE, Lengths, RequestTexts
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts, Tokenizer
from hybrid_infer.local.embedding.vectors import new_vectors
from hybrid_infer.local.translation import as_local_error


class EmbedJob:
    """One request that other threads compute.

    Rows are written into one array as batches finish, and the last one resolves the future.

    Args:
        texts: what to embed.
        deadline: when it must be done; renewed by every batch.
        provenance: what to say of the weights.

    Attributes:
        texts: what to embed.
        future: gets the reply or a typed error, once.
        queued_at: when it was queued, until its first batch begins; None if nobody asks.
    """

    __slots__ = (
        "_left",
        "_lock",
        "_provenance",
        "_vectors",
        "deadline",
        "future",
        "queued_at",
        "texts",
    )

    def __init__(self, texts: RequestTexts, deadline: Deadline, provenance: Provenance) -> None:
        self.texts = texts
        self.deadline = deadline
        self.future: Future[EmbedReply] = Future()
        self.queued_at: float | None = None
        self._provenance = provenance
        self._lock = threading.Lock()  # several lanes put rows
        self._left = 0
        self._vectors: NDArray[np.float32] | None = None

    def put(self, indices: list[int], rows: NDArray[np.float32]) -> None:
        """Store the rows of sequences; the last ones answer the caller.

        Args:
            indices: which sequences.
            rows: ``(sequences, dim)``.
        """
        with self._lock:
            if self._vectors is None:
                self._left = self.texts.num_sequences
                self._vectors = new_vectors(self._left, rows.shape[1])
            self._vectors[indices] = rows
            self.texts.forget(indices)
            self._left -= len(indices)
            if self._left:
                return
        with suppress(InvalidStateError):  # the caller left in this very moment
            self.future.set_result(self.texts.reply(self._vectors, self._provenance))

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


def tokenize_jobs(tokenizer: Tokenizer, jobs: Sequence[EmbedJob]) -> list[tuple[EmbedJob, Lengths]]:
    """Tokenise the next slice of each job, all in one go; a job that this fails for gets its error.

    Returns:
        ``(index, tokens)`` of each new sequence of each job that goes on.
    """
    slices = [job.texts.next_slice() for job in jobs]
    try:
        tokenized = tokenizer([text for part in slices for text in part])
    except Exception as error:  # noqa: BLE001 - translated as every fault of the tokenizer
        if len(jobs) > 1:
            return [done for job in jobs for done in tokenize_jobs(tokenizer, [job])]
        jobs[0].fail(as_local_error("tokenising", error))
        return []
    done, stop = [], 0
    for job, part in zip(jobs, slices, strict=True):
        start, stop = stop, stop + len(part)
        own = TokenizedTexts(tokenized.ids[start:stop], tokenized.truncated[start:stop])
        try:
            done.append((job, job.texts.take_tokens(own, tokenizer.max_seq_length)))
        except HybridInferError as error:
            job.fail(error)
    return done
