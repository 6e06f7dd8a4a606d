"""The requests of an engine that have no answer yet, and what each still has waiting."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.local.embedding.admission import Admission, Claim
from hybrid_infer.local.embedding.batching import Entry
from hybrid_infer.local.embedding.job import EmbedJob


class Live:
    """Requests without an answer, within the bounds of a queue; whoever uses it holds a lock.

    Args:
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
    """

    def __init__(self, max_texts: int, max_tokens: int) -> None:
        self._admission = Admission(max_texts, max_tokens)
        # By their futures: a callback that knew the job itself would keep its array alive in a cycle.
        self._claims: dict[Future[EmbedReply], tuple[EmbedJob, Claim]] = {}

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def jobs(self) -> list[EmbedJob]:
        """All of them."""
        return [job for job, _ in self._claims.values()]

    def admit(self, job: EmbedJob) -> None:
        """Count a request in.

        Raises:
            OverloadedError: it does not fit.
        """
        claim = self._admission.admit(job.texts.num_texts, job.texts.num_tokens)
        self._claims[job.future] = (job, claim)

    def leave(self, future: Future[EmbedReply]) -> EmbedJob:
        """Count out the request that has this answer."""
        job, claim = self._claims.pop(future)
        self._admission.release_all(claim)
        return job

    def computed(self, batch: Sequence[Entry[EmbedJob]], seconds: float) -> None:
        """A batch does not wait any more."""
        own_lengths: dict[EmbedJob, list[int]] = {}
        for entry in batch:
            own_lengths.setdefault(entry.owner, []).append(entry.length)
        for owner, lengths in own_lengths.items():
            live = self._claims.get(owner.future)
            if live is not None:
                self._admission.release(live[1], len(lengths), sum(lengths))
        self._admission.measured(sum(map(sum, own_lengths.values())), seconds)
