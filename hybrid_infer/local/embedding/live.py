"""The requests of an engine that have no answer yet, and what each still has waiting."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_infer.local.embedding.admission import Admission, Claim
from hybrid_infer.local.embedding.batching import Share
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.texts import Slice


class Live:
    """Requests without an answer, within the bounds of a queue; whoever uses it holds a lock.

    Args:
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
    """

    def __init__(self, max_texts: int, max_tokens: int) -> None:
        self._admission = Admission(max_texts, max_tokens)
        self._claims: dict[EmbedJob, Claim] = {}

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def jobs(self) -> list[EmbedJob]:
        """All of them."""
        return list(self._claims)

    def admit(self, job: EmbedJob) -> None:
        """Count a request in.

        Raises:
            OverloadedError: it does not fit.
        """
        self._claims[job] = self._admission.admit(job.texts.num_texts, job.texts.num_tokens)

    def leave(self, job: EmbedJob) -> None:
        """Count out a request that has its answer."""
        self._admission.release_all(self._claims.pop(job))

    def computed(self, batch: Sequence[Share[EmbedJob, Slice]], seconds: float) -> int:
        """A batch does not wait any more; its tokens."""
        tokens = 0
        for share in batch:
            tokens += share.tokens
            claim = self._claims.get(share.owner)
            if claim is not None:
                self._admission.release(claim, len(share), share.tokens)
        self._admission.measured(tokens, seconds)
        return tokens
