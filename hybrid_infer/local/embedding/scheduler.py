"""The threads of an embedding engine, and what passes between callers and them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.errors import EngineClosedError, HybridInferError, OverloadedError
from hybrid_infer.local.embedding.admission import Admission, Claim
from hybrid_infer.local.embedding.batching import Entry, Window
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.lanes import Lane, Runner
from hybrid_infer.local.supervision import (
    STUCK_SECONDS,
    Crew,
    RestartLimit,
    Watchdog,
    cause_of_death,
)
from hybrid_infer.local.waiting import too_late

MAX_TEXTS = 262_144
MAX_TOKENS = 16_777_216
MAX_TEXTS_PER_BATCH = 4_096
BUDGETS_AHEAD = 2  # batches that are tokenised before they are needed
MAX_YIELDS = 32  # each lets threads that can run have the interpreter and the core; none waits
RESTARTS, RESTART_SECONDS = 3, 60.0
JOIN_SECONDS = 5.0

Lengths = list[tuple[int, int]]


class Scheduler:
    """Shares the compute threads among requests.

    A batch is taken from the window at the last moment, so that whatever has arrived shares it.
    A sequence that finds the engine idle and itself alone is computed by all cores together, in
    the first lane; as soon as more waits, the other lanes, if there are any, compute side by side,
    each on its share of the cores: no core waits for another at the end of every operator.
    Another thread tokenises large requests slice by slice, ahead of the lanes but never far.
    Threads start when they are needed, wait on conditions, never poll, and are replaced when they
    die; the requests that they were busy with get a typed error.

    No future is resolved while the lock is held: a future's callbacks may call back.

    Args:
        name: of the threads.
        runners: each computes batches on its own thread; the first uses all cores, the others
            share them and leave them to the first while it computes.
        fills_batches: whether a lane waits for a full batch while another lane computes and more is
            being tokenised, instead of taking its share of what there is at once. So it is on a GPU,
            which a full batch uses better than several small ones do.
        tokenize: tokenises the next slice of a request.
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
        clock: a monotonic clock in seconds.
        on_batch: told each batch's texts, tokens and seconds, and how many texts wait.
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[Runner],
        tokenize: Callable[[EmbedJob], Lengths],
        *,
        fills_batches: bool = False,
        max_texts: int = MAX_TEXTS,
        max_tokens: int = MAX_TOKENS,
        clock: Clock = time.monotonic,
        on_batch: Callable[[int, int, float, int], None] | None = None,
    ) -> None:
        self._tokenize, self._on_batch = tokenize, on_batch
        self._fills_batches = fills_batches
        self._lock = threading.Lock()
        can_share = threading.Condition(self._lock)
        self._whole, *self._shares = (
            Lane(f"compute-{number}", runner, can_share if number else self._condition())
            for number, runner in enumerate(runners)
        )
        self._can_share = can_share
        self._can_tokenize = self._condition()
        self._window: Window[EmbedJob] = Window()
        self._untokenized: dict[EmbedJob, None] = {}  # in turn
        # Every job that has no answer, by its future: a callback that knew the job itself would
        # keep its array alive in a cycle.
        self._live: dict[Future[EmbedReply], tuple[EmbedJob, Claim]] = {}
        self._admission = Admission(max_texts, max_tokens)
        self._restarts = RestartLimit(RESTARTS, RESTART_SECONDS, clock)
        self._watchdog = Watchdog(clock)
        self._crew = Crew(name, self._bury)
        self._busy_with: dict[str, list[EmbedJob]] = {}
        self._is_closed = False
        self._owner = os.getpid()

    def _condition(self) -> threading.Condition:
        return threading.Condition(self._lock)

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused: closed, dead, or inherited by a fork."""
        return self._is_closed or self._owner != os.getpid()

    @property
    def is_busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._live)

    def submit(self, job: EmbedJob, lengths: Lengths | None) -> None:
        """Put a request in the queue.

        Args:
            job: the request.
            lengths: ``(index, tokens)`` of its sequences, if they are tokenised already.

        Raises:
            EngineClosedError: closed, died too often, or belongs to a parent process.
            OverloadedError: the queue is full, or a batch does not end.
        """
        if self._owner != os.getpid():
            # No thread survives a fork, and torch's own pool may hold a lock for ever.
            raise EngineClosedError("this engine was made before a fork; make a new client here")
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the local engine is closed")
            self._refuse_if_stuck()
            self._ensure_threads(needs_tokens=lengths is None)
            claim = self._admission.admit(job.num_texts, job.num_tokens)
            self._live[job.future] = (job, claim)
            if lengths is None:
                self._untokenized[job] = None
                self._can_tokenize.notify()
            else:
                self._add(job, lengths)
        job.future.add_done_callback(self._leave)

    def _refuse_if_stuck(self) -> None:
        seconds = self._watchdog.stuck_seconds
        if seconds is not None:
            raise OverloadedError(
                f"the local engine is stuck: a batch has run for {seconds:.0f} s",
                retry_after=STUCK_SECONDS,
            )

    def _ensure_threads(self, *, needs_tokens: bool) -> None:
        for lane in (self._whole, *self._shares):
            self._crew.ensure(lane.task, partial(self._compute_next, lane))
        if needs_tokens:
            self._crew.ensure("tokenize", self._tokenize_next)

    def _add(self, job: EmbedJob, lengths: Lengths) -> None:
        self._window.add(job, job.request.normalize, lengths)
        if any(lane.is_busy for lane in self._shares):
            self._can_share.notify()
        else:
            self._whole.can_start.notify()

    def _leave(self, future: Future[EmbedReply]) -> None:
        """Forget a request that has its answer, or that nobody waits for."""
        if self._owner != os.getpid():
            return
        with self._lock:
            job, claim = self._live.pop(future)
            self._window.discard(job)
            self._untokenized.pop(job, None)
            self._admission.release_all(claim)

    # The compute threads ---------------------------------------------------------------------

    def _compute_next(self, lane: Lane) -> bool:
        """Wait for a batch and compute it; False once closed."""
        if not lane.is_prepared:
            lane.runner.prepare()
            lane.is_prepared = True
        late: list[EmbedJob] = []
        with self._lock:
            while not (batch := self._take(lane, late)) and not late and not self._is_closed:
                lane.can_start.wait()
            if self._is_closed:
                return False
            if batch:
                lane.is_busy = True
                self._watchdog.begin(lane.task)
            self._busy_with[lane.task] = list({entry.owner: None for entry in batch})
            if self._untokenized:
                self._can_tokenize.notify()
        for job in late:
            job.fail(too_late(job.deadline))
        if batch:
            lane.runner.run(batch, normalize=batch[0].owner.request.normalize)
            self._computed(lane, batch)
            callers = len({entry.owner for entry in batch})
            if lane is not self._whole and callers > 1:
                # Those just answered often ask again at once: the next batch is theirs too if
                # they run now, and they do not take a core from another lane's batch.
                for _ in range(min(callers, MAX_YIELDS)):
                    time.sleep(0)
        return True

    def _take(self, lane: Lane, late: list[EmbedJob]) -> list[Entry[EmbedJob]]:
        """The lane's next batch, or nothing if there is none or it is another lane's turn."""

        def is_wanted(job: EmbedJob) -> bool:
            if job.is_done:
                return False
            if job.deadline.expired():
                late.append(job)
                return False
            return True

        idle = sum(not share.is_busy for share in self._shares)
        is_alone = not self._shares or (idle == len(self._shares) and len(self._window) <= 1)
        if self._whole.is_busy or is_alone is not (lane is self._whole):
            if self._window and not self._whole.is_busy:
                (self._whole.can_start if is_alone else self._can_share).notify()
            return []
        budget = lane.runner.token_budget
        if self._fills_batches:
            if idle < len(self._shares) and self._window.tokens < budget and self._is_tokenizing:
                return []
        elif not is_alone:
            budget = min(budget, -(-self._window.tokens // idle))
        batch = self._window.take(budget, MAX_TEXTS_PER_BATCH, is_wanted)
        if self._window and not is_alone:
            self._can_share.notify()
        return batch

    @property
    def _is_tokenizing(self) -> bool:
        return bool(self._untokenized) or "tokenize" in self._busy_with

    def _computed(self, lane: Lane, batch: list[Entry[EmbedJob]]) -> None:
        tokens = sum(entry.length for entry in batch)
        with self._lock:
            lane.is_busy = False
            self._busy_with.pop(lane.task, None)
            seconds = self._watchdog.end(lane.task)
            waiting = len(self._window)
            self._admission.measured(tokens, seconds)
            for entry in batch:
                live = self._live.get(entry.owner.future)
                if live is not None:
                    self._admission.release(live[1], 1, entry.length)
        if self._on_batch is not None:
            self._on_batch(len(batch), tokens, seconds, waiting)

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
                if not job.is_tokenized:
                    self._untokenized[job] = None
                self._add(job, lengths)
            elif self._window:
                self._can_share.notify()  # who waited for more
        return True

    def _hungry(self) -> EmbedJob | None:
        """The next request that is not tokenised far enough ahead."""
        if not self._untokenized:
            return None
        lanes = self._shares or [self._whole]
        budget = sum(lane.runner.token_budget for lane in lanes)
        ahead = BUDGETS_AHEAD * budget // len(self._untokenized)
        for job in self._untokenized:
            if self._window.tokens_of(job) <= ahead:
                return job
        return None

    # Ending ----------------------------------------------------------------------------------

    def _bury(self, task: str, error: BaseException) -> None:
        """Answer the requests that a dead thread was busy with, and replace it."""
        with self._lock:
            victims = self._busy_with.pop(task, [])
            self._crew.forget(task)
            self._watchdog.forget(task)
            for lane in (self._whole, *self._shares):
                if lane.task == task:
                    lane.is_busy = lane.is_prepared = False
            is_spent = isinstance(error, EngineClosedError) or not self._restarts.allows_one_more()
            if is_spent or not (self._is_closed or self._crew.replace(task)):
                victims = self._refuse()
        for job in victims:
            job.fail(cause_of_death(task, error))

    def _refuse(self) -> list[EmbedJob]:
        """Close, under the lock; who has no answer yet."""
        self._is_closed = True
        for condition in (self._whole.can_start, self._can_share, self._can_tokenize):
            condition.notify_all()
        return [job for job, _ in self._live.values()]

    def close(self) -> None:
        """Answer everyone at once; the running batch ends on its own."""
        if self._owner != os.getpid():
            return
        with self._lock:
            pending = self._refuse()
        for job in pending:
            job.fail(EngineClosedError("the local engine was closed"))
        self._crew.join(JOIN_SECONDS)
