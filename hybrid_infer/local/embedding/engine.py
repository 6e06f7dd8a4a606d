"""The embedding engine: requests from any thread or loop, computed in packed batches on one thread."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import EmbedReply, Provenance
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import (
    ContextLengthError,
    HybridInferError,
    LocalEngineError,
)
from hybrid_infer.local.embedding.batching import plan_batches
from hybrid_infer.local.embedding.encoders import Encoder
from hybrid_infer.local.embedding.tokenizing import TextTokenizer, TokenizedTexts
from hybrid_infer.local.translation import local_errors
from hybrid_infer.local.waiting import too_late
from hybrid_infer.local.worker import Worker

MAX_JOBS = 1024
TEXTS_PER_SLICE = 1024


class EmbedJob:
    """One request on its way through the engine.

    Args:
        engine: computes it.
        request: what to embed.
        deadline: when it must be done; renewed by every batch.

    Attributes:
        future: gets the reply or a typed error, once.
    """

    def __init__(self, engine: EmbeddingEngine, request: EmbedRequest, deadline: Deadline) -> None:
        self._engine = engine
        self.request = request
        self.deadline = deadline
        self.future: Future[EmbedReply] = Future()
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """The caller has gone: what is not computed yet never will be."""
        self._abandoned.set()
        self.future.cancel()

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return self._abandoned.is_set()

    def run(self) -> None:
        """Compute and deliver; on the engine's thread."""
        if self.is_abandoned or not self.future.set_running_or_notify_cancel():
            return
        if self.deadline.expired():
            self.fail(too_late(self.deadline))
            return
        try:
            reply = self._engine.compute(self)
        except HybridInferError as error:
            self.fail(error)
            return
        with suppress(InvalidStateError):  # the caller left in this very moment
            self.future.set_result(reply)

    def fail(self, error: HybridInferError) -> None:
        """Deliver an error."""
        with suppress(InvalidStateError):  # the caller left in this very moment
            self.future.set_exception(error)


class EmbeddingEngine:
    """One loaded embedding model.

    Args:
        encoder: computes batches; used by the engine's thread alone.
        tokenizer: used by the engine's thread alone.
        provenance: what to say of the weights.
        token_budget: tokens of a batch at most.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        provenance: Provenance,
        token_budget: int,
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self.provenance = provenance
        self._token_budget = token_budget
        self._worker = Worker(f"hybrid-infer-embed-{provenance.model}", MAX_JOBS)

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        return self._worker.is_closed

    def submit(self, request: EmbedRequest, deadline: Deadline) -> EmbedJob:
        """Queue a request; its job's future gets the reply.

        Raises:
            OverloadedError: the queue is full.
            EngineClosedError: the engine is closed.
        """
        job = EmbedJob(self, request, deadline)
        self._worker.submit(job)
        return job

    def compute(self, job: EmbedJob) -> EmbedReply:
        """Tokenise, batch, encode, put back in order.

        Raises:
            HybridInferError: the request or the computation failed.
        """
        request = job.request
        with local_errors("embedding"):
            tokenized = self._tokenize(job)
            if not request.truncate:
                self._check_lengths(tokenized, request)
            vectors = self._encode(tokenized, job)
        truncations = sum(
            cut or index in request.cut_texts for index, cut in enumerate(tokenized.truncated)
        )
        prompt_tokens = sum(len(ids) for ids in tokenized.ids)
        return EmbedReply(vectors, prompt_tokens, truncations, self.provenance)

    def _tokenize(self, job: EmbedJob) -> TokenizedTexts:
        """Slice by slice, so that abandoned work ends soon."""
        ids: list[list[int]] = []
        truncated: list[bool] = []
        texts = job.request.texts
        for start in range(0, len(texts), TEXTS_PER_SLICE):
            self._check_wanted(job)
            part = self._tokenizer(texts[start : start + TEXTS_PER_SLICE])
            ids += part.ids
            truncated += part.truncated
        return TokenizedTexts(ids, truncated)

    @staticmethod
    def _check_wanted(job: EmbedJob) -> None:
        if job.is_abandoned or job.deadline.expired():
            raise too_late(job.deadline)

    def _encode(self, tokenized: TokenizedTexts, job: EmbedJob) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] | None = None
        lengths = [len(ids) for ids in tokenized.ids]
        for batch in plan_batches(lengths, self._token_budget):
            self._check_wanted(job)
            sequences = [tokenized.ids[index] for index in batch]
            rows = self._encoder.encode(sequences, normalize=job.request.normalize)
            if not np.isfinite(rows).all():
                raise LocalEngineError(
                    f"{self.provenance.model} computed a value that is not a number in "
                    f"{self.provenance.dtype}"
                )
            if vectors is None:
                vectors = np.empty((len(lengths), rows.shape[1]), np.float32)
            vectors[batch] = rows
            job.deadline.renew()
        if vectors is None:
            raise LocalEngineError("there was nothing to embed")
        return vectors

    def _check_lengths(self, tokenized: TokenizedTexts, request: EmbedRequest) -> None:
        for index, is_cut in enumerate(tokenized.truncated):
            if is_cut:
                raise ContextLengthError(
                    f"texts[{index}] has more than the {self._tokenizer.max_seq_length} tokens "
                    f"of {request.spec.name}; pass truncate=True to cut it",
                    argument=f"texts[{index}]",
                )

    def close(self) -> None:
        """Refuse what waits; the running batch ends on its own."""
        self._worker.close()
