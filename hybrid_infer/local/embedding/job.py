"""One ``embed`` request on its way through the engine's threads: its rows, its one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.local.answer import Answer
from hybrid_infer.local.embedding.texts import RequestTexts, Slice
from hybrid_infer.local.embedding.vectors import new_vectors
from hybrid_infer.local.waiting import too_late


class Queue(Protocol):
    """Where a request waits."""

    def leave(self, job: EmbedJob) -> None:
        """It has its answer, or nobody waits for it."""
        ...


class EmbedJob(Answer[EmbedReply]):
    """One request that other threads compute.

    Rows are written into one array as batches finish, and with the last one it has its reply.

    Args:
        texts: what to embed.
        deadline: when it must be done; renewed by every batch.
        provenance: what to say of the weights.

    Attributes:
        texts: what to embed.
        deadline: when it must be done.
        queue: where it waits, until it has its answer; None: nowhere yet.
        queued_at: when it was queued, until its first batch begins; None if nobody asks.
        waiting_texts: texts that count as waiting.
        waiting_tokens: their tokens.
    """

    __slots__ = (
        "_left",
        "_provenance",
        "_vectors",
        "deadline",
        "queue",
        "queued_at",
        "texts",
        "waiting_texts",
        "waiting_tokens",
    )

    def __init__(self, texts: RequestTexts, deadline: Deadline, provenance: Provenance) -> None:
        super().__init__()
        self.texts = texts
        self.deadline = deadline
        self.queue: Queue | None = None
        self.queued_at: float | None = None
        self.waiting_texts = self.waiting_tokens = 0
        self._provenance = provenance
        self._left = 0
        self._vectors: NDArray[np.float32] | None = None

    @property
    def normalize(self) -> bool:
        """Whether vectors are made one long: only equals share a batch."""
        return self.texts.request.normalize

    def members(self, places: Sequence[int]) -> Sequence[EmbedJob]:  # noqa: ARG002 - a crowd's differ
        """Whose sequences those at `places` are."""
        return (self,)

    def fail_if_late(self) -> bool:
        """Whether its deadline is over; then it has its answer."""
        if not self.deadline.expired():
            return False
        self.fail(too_late(self.deadline))
        return True

    def put(self, source: Slice, places: Sequence[int], rows: NDArray[np.float32]) -> None:
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
        with self._lock:  # several lanes put rows, each its own
            if self._vectors is None:
                self._left = self.texts.num_sequences
                self._vectors = new_vectors(self._left, rows.shape[1])
        self._vectors[indices] = rows
        with self._lock:
            self._left -= len(indices)
            if self._left:
                return
        self.give(self.texts.reply(self._vectors, self._provenance))

    def reply_of_one(self, row: NDArray[np.float32], num_tokens: int) -> EmbedReply:
        """The answer to a request of one text that was tokenised with others.

        Args:
            row: its row, ``(1, dim)``; copied, for the batch's are many more.
            num_tokens: what its text has become.
        """
        return self.texts.reply(row.copy(), self._provenance, num_tokens)

    def _leave(self) -> None:
        queue, self.queue = self.queue, None  # who keeps an error keeps the job, but not the engine
        if queue is not None:
            queue.leave(self)
