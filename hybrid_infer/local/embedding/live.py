"""The requests of an engine that have no answer yet, and what each still has waiting."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from hybrid_infer.errors import EngineClosedError
from hybrid_infer.local.embedding.admission import Admission
from hybrid_infer.local.embedding.crowd import Batch
from hybrid_infer.local.embedding.job import EmbedJob

LEAVE_TOGETHER = 64  # requests; then the lock is free for whoever comes


class Live:
    """Requests without an answer, within the bounds of a queue, until it is closed.

    Any thread may use it. Its lock is its own, so that who comes never waits for those who compute.

    Args:
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.

    Attributes:
        is_closed: whether requests are refused.
    """

    def __init__(self, max_texts: int, max_tokens: int) -> None:
        self._admission = Admission(max_texts, max_tokens)
        self._jobs: dict[EmbedJob, None] = {}
        self._lock = threading.Lock()
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def admit(self, job: EmbedJob) -> None:
        """Count a request in.

        Raises:
            EngineClosedError: it is closed.
            OverloadedError: it does not fit.
        """
        with self._lock:
            if self.is_closed:
                raise EngineClosedError("the local engine is closed")
            self._admission.admit(job, job.texts.num_texts, job.texts.num_tokens)
            self._jobs[job] = None

    def leave(self, jobs: Sequence[EmbedJob]) -> None:
        """Count out requests that have their answers."""
        for first in range(0, len(jobs), LEAVE_TOGETHER):
            with self._lock:
                for job in jobs[first : first + LEAVE_TOGETHER]:
                    del self._jobs[job]
                    self._admission.release_all(job)

    def computed(self, batch: Batch, seconds: float) -> int:
        """A batch does not wait any more; its tokens."""
        tokens = 0
        with self._lock:
            for share in batch:
                tokens += share.tokens
                if isinstance(share.owner, EmbedJob):  # of a crowd's requests none has more to come
                    self._admission.release(share.owner, len(share), share.tokens)
            self._admission.measured(tokens, seconds)
        return tokens

    def close(self) -> list[EmbedJob]:
        """Refuse whoever comes from now on; who is here."""
        with self._lock:
            self.is_closed = True
            return list(self._jobs)
