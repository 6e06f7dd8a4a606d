"""The embedding engine: requests from any thread or loop, computed in shared packed batches."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import HybridInferError, LocalEngineError
from hybrid_infer.events import BatchComputed, Observer, ignore
from hybrid_infer.local.embedding.encoders import Encoder
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.runner import BatchRunner
from hybrid_infer.local.embedding.scheduler import MAX_TEXTS, MAX_TOKENS, Lengths, Scheduler
from hybrid_infer.local.embedding.tokenizing import TextTokenizer
from hybrid_infer.local.translation import local_errors

# Up to here a request is tokenised by its caller: it takes less than the hop to another thread.
INLINE_TEXTS = 8
INLINE_CHARACTERS = 4_096


class EmbeddingEngine:
    """One loaded embedding model.

    Args:
        encoder: computes batches; used by several threads if there are several lanes.
        tokenizer: used by several threads; nothing changes it once it is made.
        provenance: what to say of the weights.
        token_budget: tokens computed at the same time at most.
        lane_threads: cores of each lane in which batches are computed side by side once more
            than one sequence waits, None for no limit; empty: one batch at a time, on all cores.
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
        clock: a monotonic clock in seconds.
        on_event: told of each batch, on the thread that computed it.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        provenance: Provenance,
        token_budget: int,
        *,
        lane_threads: Sequence[int | None] = (),
        max_texts: int = MAX_TEXTS,
        max_tokens: int = MAX_TOKENS,
        clock: Clock = time.monotonic,
        on_event: Observer = ignore,
    ) -> None:
        self._tokenizer = tokenizer
        self.provenance = provenance
        self._scheduler = Scheduler(
            f"hybrid-infer-embed-{provenance.model}",
            [
                BatchRunner(encoder, token_budget, provenance),
                *(
                    BatchRunner(encoder, token_budget // len(lane_threads), provenance, threads)
                    for threads in lane_threads
                ),
            ],
            self._tokenize,
            fills_batches=None in lane_threads,
            max_texts=max_texts,
            max_tokens=max_tokens,
            clock=clock,
            on_batch=None
            if on_event is ignore
            else lambda *facts: on_event(BatchComputed(provenance.model, *facts)),
        )

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        return self._scheduler.is_closed

    @property
    def is_busy(self) -> bool:
        """Whether a request is being computed, or waits."""
        return self._scheduler.is_busy

    def submit(self, request: EmbedRequest, deadline: Deadline) -> EmbedJob:
        """Queue a request; its job's future gets the reply.

        Raises:
            OverloadedError: the queue is full.
            EngineClosedError: the engine is closed.
        """
        job = EmbedJob(request, deadline, self.provenance)
        if not job.num_texts:
            job.fail(LocalEngineError("there was nothing to embed"))
            return job
        lengths: Lengths | None = None
        if job.num_texts <= INLINE_TEXTS and job.num_characters <= INLINE_CHARACTERS:
            try:
                lengths = self._tokenize(job)
            except HybridInferError as error:
                job.fail(error)
                return job
            job.num_tokens = sum(length for _, length in lengths)
        self._scheduler.submit(job, lengths)
        return job

    def _tokenize(self, job: EmbedJob) -> Lengths:
        with local_errors("tokenising"):
            return job.tokenize(self._tokenizer)

    def close(self) -> None:
        """Refuse what waits; the running batch ends on its own."""
        self._scheduler.close()
