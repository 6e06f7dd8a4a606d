"""The threads of an embedding engine, and what passes between callers and them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import EngineClosedError
from hybrid_infer.local.embedding.admission import MAX_TEXTS, MAX_TOKENS
from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.facts import BatchFacts, first_waits
from hybrid_infer.local.embedding.intake import Intake
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.lanes import LEAST_TOKENS, Batch, Lane, Runner, share_of
from hybrid_infer.local.embedding.live import Live
from hybrid_infer.local.embedding.texts import Slice
from hybrid_infer.local.supervision import Crew, RestartLimit, Watchdog, cause_of_death
from hybrid_infer.local.waiting import too_late

MAX_TEXTS_PER_BATCH = 4_096
BUDGETS_AHEAD = 2  # batches that are tokenised before they are needed
CROWD = 8  # requests; from here on they are tokenised together
RESTARTS, RESTART_SECONDS = 3, 60.0
JOIN_SECONDS = 5.0


class Scheduler:
    """Shares the compute threads among requests.

    A batch is taken from the window at the last moment, so that whatever has arrived shares it.
    A sequence that finds the engine idle and itself alone is computed by all cores together, in
    the first lane; as soon as more waits, the other lanes, if there are any, compute side by side,
    each on its share of the cores: no core waits for another at the end of every operator.
    The short requests of a crowd are tokenised together, by a lane unless a GPU would wait for it,
    which costs half of what it costs their callers one by one; another thread tokenises large ones
    slice by slice, ahead of the lanes but never far.
    Threads start when they are needed, wait on conditions, never poll, and are replaced when they
    die; the requests that they were busy with get a typed error.

    No request is answered while the lock is held: its callbacks may call back.

    Args:
        name: of the threads.
        runners: each computes batches on its own thread; the first uses all cores, the others
            share them and leave them to the first while it computes.
        fills_batches: whether a lane waits for a full batch while another lane computes and more
            comes, from the tokeniser or from a crowd, instead of taking its share of what there is at
            once. So it is on a GPU, which a full batch uses better than several small ones do.
        tokenize: tokenises the next slice of each of several requests.
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
        clock: a monotonic clock in seconds.
        on_batch: told of each batch that was computed; None: nothing is measured for it.
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[Runner],
        tokenize: Callable[[Sequence[EmbedJob]], list[tuple[EmbedJob, Slice]]],
        *,
        fills_batches: bool = False,
        max_texts: int = MAX_TEXTS,
        max_tokens: int = MAX_TOKENS,
        clock: Clock = time.monotonic,
        on_batch: Callable[[BatchFacts], None] | None = None,
    ) -> None:
        self._tokenize, self._fills_batches = tokenize, fills_batches
        self._on_batch, self._clock = on_batch, clock
        self._lock = threading.Lock()
        condition = partial(threading.Condition, self._lock)
        self._can_share, self._can_tokenize = condition(), condition()
        self._whole, *self._shares = (
            Lane(f"compute-{number}", runner, self._can_share if number else condition())
            for number, runner in enumerate(runners)
        )
        self._window: Window[EmbedJob, Slice] = Window()
        self._intake = Intake(self._window, self._tokens_ahead, lanes_tokenize=not fills_batches)
        self._live = Live(max_texts, max_tokens)
        self._crew, self._watchdog = Crew(name, self._bury), Watchdog(clock)
        self._restarts = RestartLimit(RESTARTS, RESTART_SECONDS, clock)
        self._steps = {
            lane.task: partial(self._compute_next, lane) for lane in (self._whole, *self._shares)
        }
        self._busy_with: dict[str, list[EmbedJob]] = {}
        self._is_closed, self._owner = False, os.getpid()

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused: closed, dead, or inherited by a fork."""
        return self._is_closed or self._owner != os.getpid()

    @property
    def is_busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._live)

    @property
    def is_crowded(self) -> bool:
        """Whether so many requests wait that they are better tokenised together."""
        return len(self._live) >= CROWD

    @property
    def is_idle(self) -> bool:
        """Whether a request would be the only one; may be outdated when it is read."""
        return not self._live and not self.is_closed

    def submit(self, job: EmbedJob, tokenized: Slice | None) -> None:
        """Put a request in the queue.

        Args:
            job: the request.
            tokenized: its sequences, if they are tokenised already.

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
            self._watchdog.refuse_if_stuck("batch")
            needs_tokens = tokenized is None and not self._intake.is_short(job)
            self._ensure_threads(needs_tokens=needs_tokens)
            self._live.admit(job)
            if self._on_batch is not None:
                job.queued_at = self._clock()
            if tokenized is not None:
                self._add(job, tokenized)
            else:
                self._intake.add(job)
            if needs_tokens:
                self._can_tokenize.notify()
            else:
                self._wake()
        job.add_done_callback(self._leave)

    def _add(self, job: EmbedJob, part: Slice) -> None:
        self._window.add(job, job.texts.request.normalize, part, part.tokens.lengths)

    def _ensure_threads(self, *, needs_tokens: bool) -> None:
        for task, step in self._steps.items():
            self._crew.ensure(task, step)
        if needs_tokens:
            self._crew.ensure("tokenize", self._tokenize_next)

    def _wake(self) -> None:
        """Wake a lane that may have a turn."""
        is_shared = self._shares and (
            len(self._window) > 1 or any(lane.is_busy for lane in self._shares)
        )
        (self._can_share if is_shared else self._whole.can_start).notify()

    def _leave(self, job: EmbedJob) -> None:
        """Forget a request that has its answer, or that nobody waits for."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._live.leave(job)
            self._window.discard(job)
            if self._intake.discard(job):
                self._wake()  # a lane may have waited for its tokens

    # The compute threads ---------------------------------------------------------------------

    def _compute_next(self, lane: Lane) -> bool:
        """Wait for work and do it: tokenise a crowd, or compute a batch; False once closed."""
        if not lane.is_prepared:
            lane.runner.prepare()
            lane.is_prepared = True
        late: list[EmbedJob] = []
        with self._lock:
            while not ((crowd := self._intake.take_short()) or self._is_closed):
                if (batch := self._take(lane, late)) or late:
                    break
                if not self._intake.is_short_due:  # a batch of nobody has left, and made room
                    lane.can_start.wait()
            if self._is_closed:
                return False
            if crowd:
                self._busy_with[lane.task] = crowd
            else:
                waits = self._begin(lane, batch)
        if crowd:
            self._tokenize_all(lane.task, crowd)
            return True
        for job in late:  # whoever has renewed their deadlines: they have left the window
            job.fail(too_late(job.deadline))
        if batch:
            lane.runner.run(batch, normalize=batch[0].owner.texts.request.normalize)
            self._computed(lane, batch, waits)
        return True

    def _begin(self, lane: Lane, batch: Batch) -> tuple[float, ...]:
        """Note that a lane begins a batch, which may be empty; how long its requests have waited."""
        if batch:
            lane.is_busy = True
            self._watchdog.begin(lane.task)
        owners = self._busy_with[lane.task] = list({share.owner: None for share in batch})
        if self._intake.has_long:
            self._can_tokenize.notify()
        return () if self._on_batch is None else first_waits(owners, self._clock())

    def _take(self, lane: Lane, late: list[EmbedJob]) -> Batch:
        """The lane's next batch, or nothing if there is none or it is another lane's turn."""

        def is_wanted(job: EmbedJob) -> bool:
            if job.done():
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
        budget, waiting = lane.runner.token_budget, self._window.tokens
        comes_more = self._intake.has_long or "tokenize" in self._busy_with
        least = min(budget, LEAST_TOKENS) if self.is_crowded else 0
        if self._fills_batches and idle < len(self._shares):
            least, comes_more = budget, comes_more or self.is_crowded
        if comes_more and waiting < least:
            self._can_tokenize.notify()  # others may have left, so that what is ahead is too little now
            return []  # it wakes a lane; and a lane that computes takes afterwards what there is
        if not is_alone and not self._fills_batches:
            share = share_of(waiting, idle, len(self._shares), is_crowded=self.is_crowded)
            budget = min(budget, share)
        batch = self._window.take(budget, MAX_TEXTS_PER_BATCH, is_wanted)
        if self._window and not is_alone:
            self._can_share.notify()
        return batch

    def _computed(self, lane: Lane, batch: Batch, waits: tuple[float, ...]) -> None:
        with self._lock:
            lane.is_busy = False
            self._busy_with.pop(lane.task, None)
            seconds = self._watchdog.end(lane.task)
            waiting = len(self._window)
            tokens = self._live.computed(batch, seconds)
        if self._on_batch is not None:
            rows, longest = sum(map(len, batch)), max(share.lengths[0] for share in batch)
            self._on_batch(BatchFacts(rows, tokens, longest, seconds, waiting, waits))

    # The tokenising thread -------------------------------------------------------------------

    def _tokenize_next(self) -> bool:
        """Wait for requests that run out of tokens and tokenise a slice of each; False once closed."""
        with self._lock:
            while not (jobs := self._intake.hungry()) and not self._is_closed:
                self._can_tokenize.wait()
            if self._is_closed:
                return False
            for job in jobs:
                self._intake.discard(job)
            self._busy_with["tokenize"] = jobs
        self._tokenize_all("tokenize", jobs)
        return True

    def _tokens_ahead(self) -> int:
        lanes = self._shares or [self._whole]
        return BUDGETS_AHEAD * sum(lane.runner.token_budget for lane in lanes)

    def _tokenize_all(self, task: str, jobs: list[EmbedJob]) -> None:
        """Tokenise the next slice of each of `jobs`, with which the thread of `task` is busy."""
        wanted = [job for job in jobs if not (job.done() or job.fail_if_late())]
        done = self._tokenize(wanted) if wanted else []
        with self._lock:
            self._busy_with.pop(task, None)
            for job, tokenized in done:
                if not job.done():
                    self._add(job, tokenized)
                    if not job.texts.is_tokenized:
                        self._intake.add(job)
            self._wake()

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
            self._wake()
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
        return self._live.jobs

    def close(self) -> None:
        """Answer everyone at once; the running batch ends on its own."""
        if self._owner != os.getpid():
            return
        with self._lock:
            pending = self._refuse()
        for job in pending:
            job.fail(EngineClosedError("the local engine was closed"))
        self._crew.join(JOIN_SECONDS)
