"""The two threads of an embedding engine, and what passes between callers and them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.errors import EngineClosedError, HybridInferError, OverloadedError
from hybrid_infer.local.embedding.admission import Admission, Claim
from hybrid_infer.local.embedding.batching import Entry, Window
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.supervision import RestartLimit
from hybrid_infer.local.waiting import too_late

MAX_TEXTS = 262_144
MAX_TOKENS = 16_777_216
MAX_TEXTS_PER_BATCH = 4_096
BUDGETS_AHEAD = 2  # batches that are tokenised before they are needed
RESTARTS, RESTART_SECONDS = 3, 60.0
JOIN_SECONDS = 5.0
logger = logging.getLogger("hybrid_infer")

Lengths = list[tuple[int, int]]


class Runner(Protocol):
    """Computes batches."""

    token_budget: int

    def run(self, batch: list[Entry[EmbedJob]], *, normalize: bool) -> None:
        """Compute a batch and deliver to the owners of its entries."""
        ...


class Scheduler:
    """Shares the compute thread among requests.

    One thread computes; it takes a batch from the window at the last moment, so that whatever
    has arrived shares it. Another tokenises large requests slice by slice, ahead of the first but
    never far. Both start when they are needed, wait on conditions, never poll, and are replaced
    when they die; the requests that they were busy with get a typed error.

    No future is resolved while the lock is held: a future's callbacks may call back.

    Args:
        name: of the threads.
        runner: computes batches; used by the compute thread alone.
        tokenize: tokenises the next slice of a request.
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        tokenize: Callable[[EmbedJob], Lengths],
        *,
        max_texts: int = MAX_TEXTS,
        max_tokens: int = MAX_TOKENS,
        clock: Clock = time.monotonic,
    ) -> None:
        self._name = name
        self._runner = runner
        self._tokenize = tokenize
        self._clock = clock
        self._lock = threading.Lock()
        self._can_compute = threading.Condition(self._lock)
        self._can_tokenize = threading.Condition(self._lock)
        self._window: Window[EmbedJob] = Window()
        self._untokenized: dict[EmbedJob, None] = {}  # in turn
        # Every job that has no answer, by its future: a callback that knew the job itself would
        # keep its array alive in a cycle.
        self._live: dict[Future[EmbedReply], tuple[EmbedJob, Claim]] = {}
        self._admission = Admission(max_texts, max_tokens)
        self._restarts = RestartLimit(RESTARTS, RESTART_SECONDS, clock)
        self._threads: dict[str, threading.Thread] = {}
        self._busy_with: dict[str, list[EmbedJob]] = {}
        self._is_closed = False
        self._owner = os.getpid()

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused: closed, dead, or inherited by a fork."""
        return self._is_closed or self._owner != os.getpid()

    def submit(self, job: EmbedJob, lengths: Lengths | None) -> None:
        """Put a request in the queue.

        Args:
            job: the request.
            lengths: ``(index, tokens)`` of its sequences, if they are tokenised already.

        Raises:
            EngineClosedError: closed, died too often, or belongs to a parent process.
            OverloadedError: the queue is full.
        """
        if self._owner != os.getpid():
            # No thread survives a fork, and torch's own pool may hold a lock for ever.
            raise EngineClosedError("this engine was made before a fork; make a new client here")
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the local engine is closed")
            self._ensure("compute", self._compute_next)
            if lengths is None:
                self._ensure("tokenize", self._tokenize_next)
            claim = self._admission.admit(job.num_texts, job.num_tokens)
            self._live[job.future] = (job, claim)
            if lengths is None:
                self._untokenized[job] = None
                self._can_tokenize.notify()
            else:
                self._add(job, lengths)
        job.future.add_done_callback(self._leave)

    def _add(self, job: EmbedJob, lengths: Lengths) -> None:
        self._window.add(job, job.request.normalize, lengths)
        self._can_compute.notify()

    def _leave(self, future: Future[EmbedReply]) -> None:
        """Forget a request that has its answer, or that nobody waits for."""
        if self._owner != os.getpid():
            return
        with self._lock:
            job, claim = self._live.pop(future)
            self._window.discard(job)
            self._untokenized.pop(job, None)
            self._admission.release_all(claim)

    # The compute thread ----------------------------------------------------------------------

    def _compute_next(self) -> bool:
        """Wait for a batch and compute it; False once closed."""
        late: list[EmbedJob] = []
        with self._lock:
            while not (batch := self._take(late)) and not late and not self._is_closed:
                self._can_compute.wait()
            if self._is_closed:
                return False
            self._busy_with["compute"] = list({entry.owner: None for entry in batch})
            if self._untokenized:
                self._can_tokenize.notify()
        for job in late:
            job.fail(too_late(job.deadline))
        if batch:
            started = self._clock()
            self._runner.run(batch, normalize=batch[0].owner.request.normalize)
            self._computed(batch, self._clock() - started)
        return True

    def _take(self, late: list[EmbedJob]) -> list[Entry[EmbedJob]]:
        def is_wanted(job: EmbedJob) -> bool:
            if job.is_done:
                return False
            if job.deadline.expired():
                late.append(job)
                return False
            return True

        return self._window.take(self._runner.token_budget, MAX_TEXTS_PER_BATCH, is_wanted)

    def _computed(self, batch: list[Entry[EmbedJob]], seconds: float) -> None:
        with self._lock:
            self._busy_with.pop("compute", None)
            self._admission.measured(sum(entry.length for entry in batch), seconds)
            for entry in batch:
                live = self._live.get(entry.owner.future)
                if live is not None:
                    self._admission.release(live[1], 1, entry.length)

    # The tokenising thread -------------------------------------------------------------------

    def _tokenize_next(self) -> bool:
        """Wait for a request that runs out of tokens and tokenise a slice of it; False once closed."""
        with self._lock:
            while (job := self._hungry()) is None and not self._is_closed:
                self._can_tokenize.wait()
            if job is None or self._is_closed:
                return False
            del self._untokenized[job]
            self._busy_with["tokenize"] = [job]
        lengths: Lengths = []
        if job.deadline.expired():
            job.fail(too_late(job.deadline))
        elif not job.is_done:
            try:
                lengths = self._tokenize(job)
            except HybridInferError as error:
                job.fail(error)
        with self._lock:
            self._busy_with.pop("tokenize", None)
            if not job.is_done:
                self._add(job, lengths)
                if not job.is_tokenized:
                    self._untokenized[job] = None
        return True

    def _hungry(self) -> EmbedJob | None:
        """The next request that is not tokenised far enough ahead."""
        if not self._untokenized:
            return None
        ahead = BUDGETS_AHEAD * self._runner.token_budget // len(self._untokenized)
        for job in self._untokenized:
            if self._window.tokens_of(job) <= ahead:
                return job
        return None

    # Threads ---------------------------------------------------------------------------------

    def _ensure(self, task: str, step: Callable[[], bool]) -> None:
        if task not in self._threads:
            thread = threading.Thread(
                target=self._loop, args=(task, step), name=f"{self._name}-{task}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left
                raise OverloadedError(f"no thread for the local engine: {error}") from error
            self._threads[task] = thread

    def _loop(self, task: str, step: Callable[[], bool]) -> None:
        try:
            while step():
                pass
        except BaseException as error:  # the callers of a dying thread must get an answer
            logger.exception("the thread %s-%s died", self._name, task)
            self._bury(task, step, error)

    def _bury(self, task: str, step: Callable[[], bool], error: BaseException) -> None:
        """Answer the requests that a dead thread was busy with, and replace it."""
        with self._lock:
            victims = self._busy_with.pop(task, [])
            del self._threads[task]
            if self._is_spent(error, task, step):
                self._is_closed = True
                victims = [job for job, _ in self._live.values()]
                self._can_compute.notify_all()
                self._can_tokenize.notify_all()
        if isinstance(error, EngineClosedError):
            reason = error.message
        else:
            reason = f"the {task} thread of the local engine died ({type(error).__name__})"
        for job in victims:
            job.fail(EngineClosedError(reason))

    def _is_spent(self, error: BaseException, task: str, step: Callable[[], bool]) -> bool:
        """Replace a dead thread, unless that is of no use."""
        if isinstance(error, EngineClosedError) or not self._restarts.allows_one_more():
            return True
        if not self._is_closed:
            try:
                self._ensure(task, step)
            except OverloadedError:
                return True
        return False

    def close(self) -> None:
        """Answer everyone at once; the running batch ends on its own."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._is_closed = True
            pending = [job for job, _ in self._live.values()]
            threads = list(self._threads.values())
            self._can_compute.notify_all()
            self._can_tokenize.notify_all()
        for job in pending:
            job.fail(EngineClosedError("the local engine was closed"))
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_SECONDS)
