"""The embedding engine: requests from any thread or loop, computed in shared packed batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import HybridInferError, LocalEngineError
from hybrid_infer.events import BatchComputed, Observer, ignore
from hybrid_infer.local.embedding.admission import MAX_TEXTS, MAX_TOKENS
from hybrid_infer.local.embedding.encoders import Direct, Encoder
from hybrid_infer.local.embedding.facts import BatchFacts
from hybrid_infer.local.embedding.gathering import tokenize_jobs
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.runner import BatchRunner, not_a_number
from hybrid_infer.local.embedding.scheduler import Scheduler
from hybrid_infer.local.embedding.texts import RequestTexts, Slice
from hybrid_infer.local.embedding.tokenizing import Stopwatch, Tokenizer
from hybrid_infer.local.translation import local_errors
from hybrid_infer.local.waiting import too_late, wait


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

    A blocking caller of a short text that finds the engine idle computes it itself, if the encoder
    says that this cannot hang: handing it to another thread and back takes a third of its time.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        provenance: Provenance,
        token_budget: int,
        *,
        lane_threads: Sequence[int | None] = (),
        max_texts: int = MAX_TEXTS,
        max_tokens: int = MAX_TOKENS,
        clock: Clock = time.monotonic,
        on_event: Observer = ignore,
    ) -> None:
        self._tokenizer: Tokenizer = tokenizer
        self.provenance = provenance
        self._clock = clock
        self._on_batch: Callable[[BatchFacts], None] | None = None
        if on_event is not ignore:
            self._tokenizer = stopwatch = Stopwatch(tokenizer, clock)
            self._on_batch = partial(_tell, on_event, provenance.model, encoder, stopwatch)
        self._direct = encoder.direct
        self._computes_here = threading.Lock()
        self._scheduler = Scheduler(
            f"hybrid-infer-embed-{provenance.model}",
            [
                BatchRunner(encoder, token_budget, provenance),
                *(
                    BatchRunner(encoder, token_budget // len(lane_threads), provenance, threads)
                    for threads in lane_threads
                ),
            ],
            partial(tokenize_jobs, self._tokenizer),
            fills_batches=None in lane_threads,
            max_texts=max_texts,
            max_tokens=max_tokens,
            clock=clock,
            on_batch=self._on_batch,
        )

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        return self._scheduler.is_closed

    @property
    def is_busy(self) -> bool:
        """Whether a request is being computed, or waits."""
        return self._scheduler.is_busy or self._computes_here.locked()

    @property
    def computed_seconds(self) -> float | None:
        """How long ago it last computed anything; None: it has not yet."""
        return self._scheduler.computed_seconds

    def embed(self, request: EmbedRequest, deadline: Deadline) -> EmbedReply:
        """The reply to a request; the calling thread waits for it, or computes it.

        Raises:
            HybridInferError: see `submit`, or what failed.
        """
        texts = RequestTexts(request)
        tokenized = self._tokenized_here(texts)
        if (
            tokenized is not None
            and self._direct is not None
            and texts.num_tokens <= self._direct.most_tokens
            and self._scheduler.is_idle
            and self._computes_here.acquire(blocking=False)
        ):
            try:
                return self._computed_here(self._direct, texts, tokenized, deadline)
            finally:
                self._computes_here.release()
        job = EmbedJob(texts, deadline, self.provenance)
        self._scheduler.submit(job, tokenized)
        return wait(job, deadline)

    def submit(self, request: EmbedRequest, deadline: Deadline) -> EmbedJob:
        """Queue a request; its job gets the reply.

        Raises:
            OverloadedError: the queue is full.
            EngineClosedError: the engine is closed.
        """
        texts = RequestTexts(request)
        job = EmbedJob(texts, deadline, self.provenance)
        try:
            tokenized = self._tokenized_here(texts)
        except HybridInferError as error:
            job.fail(error)
        else:
            self._scheduler.submit(job, tokenized)
        return job

    def _tokenized_here(self, texts: RequestTexts) -> Slice | None:
        """The sequences of a request, if it is best tokenised by the calling thread."""
        if not texts.num_texts:
            raise LocalEngineError("there was nothing to embed")
        if not texts.is_short or self._scheduler.is_crowded:
            return None
        with local_errors("tokenising"):
            tokenized = texts.tokenize(self._tokenizer)
        texts.num_tokens = len(tokenized.tokens.ids)
        return tokenized

    def _computed_here(
        self, direct: Direct, texts: RequestTexts, tokenized: Slice, deadline: Deadline
    ) -> EmbedReply:
        if deadline.expired():
            raise too_late(deadline)
        started = self._clock()
        with local_errors("embedding"):
            rows = direct(tokenized.tokens, normalize=texts.request.normalize)
        if rows is None:
            raise not_a_number(self.provenance)
        deadline.renew()
        if self._on_batch is not None:
            lengths, seconds = tokenized.tokens.lengths, self._clock() - started
            facts = BatchFacts(len(lengths), texts.num_tokens, max(lengths), seconds)
            self._on_batch(facts)
        if len(rows) > 1:
            rows = rows[np.argsort(tokenized.indices)]  # they were sorted by length
        return texts.reply(rows, self.provenance)

    def close(self) -> None:
        """Refuse what waits; the running batch ends on its own."""
        self._scheduler.close()


def _tell(
    on_event: Observer, model: str, encoder: Encoder, stopwatch: Stopwatch, batch: BatchFacts
) -> None:
    places = encoder.num_places(tokens=batch.tokens, count=batch.rows, longest=batch.longest)
    on_event(
        BatchComputed(
            model,
            batch.rows,
            batch.tokens,
            batch.seconds,
            batch.waiting,
            places - batch.tokens,
            batch.queue_waits,
            stopwatch.take_seconds(),
        )
    )
