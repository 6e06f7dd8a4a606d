"""The threads of an embedding engine, and what passes between callers and them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import EngineClosedError
from hybrid_infer.local.embedding.admission import MAX_TEXTS, MAX_TOKENS
from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.crowd import Batch, Crowd, LeaveAll, Owner, take_wanted
from hybrid_infer.local.embedding.facts import BatchFacts, take_first_waits
from hybrid_infer.local.embedding.intake import Intake
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.lanes import Lane, Lanes, Runner
from hybrid_infer.local.embedding.live import Live
from hybrid_infer.local.embedding.texts import Slice
from hybrid_infer.local.supervision import Crew, RestartLimit, Watchdog, cause_of_death
from hybrid_infer.local.waiting import too_late

MAX_TEXTS_PER_BATCH = 4_096
CROWD = 8  # requests; from here on they are tokenised together

Tokenize: TypeAlias = "Callable[[Sequence[EmbedJob], LeaveAll], list[tuple[Owner, Slice]]]"


class Scheduler:
    """Shares the compute threads among requests.

    A batch is taken from the window at the last moment, so that whatever has arrived shares it.
    A sequence that finds the engine idle and itself alone is computed by all cores together, in
    the first lane; as soon as more waits, the other lanes, if there are any, compute side by side,
    each on its share of the cores: no core waits for another at the end of every operator.
    Short requests that come together are tokenised together, by a lane unless a GPU would wait for it,
    and stay together; another thread tokenises large ones slice by slice, ahead of the lanes but never
    far.
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
        tokenize: tokenises the next slice of each of several requests; see `tokenize_jobs`.
        max_texts: texts that may wait.
        max_tokens: tokens that may wait.
        clock: a monotonic clock in seconds.
        on_batch: told of each batch that was computed; None: nothing is measured for it.
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[Runner],
        tokenize: Tokenize,
        *,
        fills_batches: bool = False,
        max_texts: int = MAX_TEXTS,
        max_tokens: int = MAX_TOKENS,
        clock: Clock = time.monotonic,
        on_batch: Callable[[BatchFacts], None] | None = None,
    ) -> None:
        self._tokenize, self._on_batch, self._clock = tokenize, on_batch, clock
        self._lock = threading.Lock()
        self._lanes = Lanes(runners, self._lock, fills_batches=fills_batches)
        self._window: Window[Owner, Slice] = Window()
        self._intake = Intake(
            self._window, self._lanes.tokens_ahead, lanes_tokenize=not fills_batches
        )
        self._live = Live(max_texts, max_tokens)
        self._crew, self._watchdog = Crew(name, self._bury), Watchdog(clock)
        self._restarts = RestartLimit(clock)
        self._has_lanes = False
        self._busy_with: dict[str, list[EmbedJob]] = {}

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused: closed, dead, or inherited by a fork."""
        return self._live.is_closed or self._crew.is_inherited

    @property
    def is_busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._live)

    @property
    def computed_seconds(self) -> float | None:
        """How long ago it last computed anything; None: it has not yet."""
        return self._watchdog.computed_seconds

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
        self._crew.refuse_if_inherited()
        if self._live.is_closed:
            raise EngineClosedError("the local engine is closed")
        self._watchdog.refuse_if_stuck("batch")
        needs_thread = tokenized is None and not self._intake.is_for_lanes(job)
        self._ensure_threads(needs_thread=needs_thread)
        job.queue = self
        if self._on_batch is not None:
            job.queued_at = self._clock()
        self._live.admit(job)
        try:
            self._accept(job, tokenized, needs_thread=needs_thread)
        except BaseException:  # an interrupt at the lock: nobody will ask for the job
            job.cancel()
            raise

    def _accept(self, job: EmbedJob, tokenized: Slice | None, *, needs_thread: bool) -> None:
        if needs_thread:
            self._intake.inbox.post(job)
            return
        with self._lock:
            if tokenized is not None:
                self._add(job, tokenized)
            else:
                self._intake.add(job)
            self._lanes.wake(len(self._window))

    def _add(self, owner: Owner, part: Slice) -> None:
        add = self._window.add_crowd if isinstance(owner, Crowd) else self._window.add
        add(owner, owner.normalize, part, part.tokens.lengths)

    def _ensure_threads(self, *, needs_thread: bool) -> None:
        if self._has_lanes and not (needs_thread and self._crew.lacks("tokenize")):
            return
        with self._lock:
            if self._live.is_closed:
                return
            for lane in self._lanes:
                self._crew.ensure(lane.task, partial(self._compute_next, lane))
            self._has_lanes = True
            if needs_thread:
                self._crew.ensure("tokenize", self._tokenize_next)

    def leave(self, job: EmbedJob) -> None:
        """Forget a request that has its answer, or that nobody waits for."""
        if self._crew.is_inherited:
            return
        self._live.leave([job])
        with self._lock:
            self._window.discard(job)
            if self._intake.discard(job):
                self._lanes.wake(len(self._window))  # a lane may have waited for its tokens

    # The compute threads ---------------------------------------------------------------------

    def _compute_next(self, lane: Lane) -> bool:
        """Wait for work and do it: tokenise a crowd, or compute a batch; False once closed."""
        if not lane.is_prepared:
            lane.runner.prepare()
            lane.is_prepared = True
        late: list[EmbedJob] = []
        with self._lock:
            crowd, batch = self._await_work(lane, late)
            if self._live.is_closed:
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
            has_computed = lane.runner.run(batch, normalize=batch[0].owner.normalize)
            self._computed(lane, batch, waits, has_computed=has_computed)
        return True

    def _await_work(self, lane: Lane, late: list[EmbedJob]) -> tuple[list[EmbedJob], Batch]:
        """Wait for a crowd to tokenise, a batch to compute, or somebody who is late; or the end."""
        while not self._live.is_closed:
            if crowd := self._intake.take_short(has_tokenized=lane.has_tokenized):
                lane.has_tokenized = True
                return crowd, []
            if (batch := self._take(lane, late)) or late:
                return [], batch
            if self._intake.needs_thread:  # those who left may have made room
                self._intake.inbox.nudge()
            if not self._intake.is_short_due:
                lane.wait()
        return [], []

    def _begin(self, lane: Lane, batch: Batch) -> tuple[float, ...]:
        """Note that a lane begins a batch, which may be empty; how long its requests have waited."""
        if batch:
            lane.is_busy, lane.has_tokenized = True, False
            self._watchdog.begin(lane.task)
        members = (job for share in batch for job in share.owner.members(share.places))
        jobs = self._busy_with[lane.task] = list(dict.fromkeys(members))
        if self._intake.needs_thread:
            self._intake.inbox.nudge()
        return () if self._on_batch is None else take_first_waits(jobs, self._clock())

    def _take(self, lane: Lane, late: list[EmbedJob]) -> Batch:
        """The lane's next batch, or nothing if there is none or it is another lane's turn."""
        if not self._lanes.has_turn(lane, len(self._window)):
            return []
        budget = self._lanes.budget_of(
            lane,
            self._window.tokens,
            comes_more=self._intake.needs_thread or "tokenize" in self._busy_with,
            is_crowded=self.is_crowded,
        )
        if not budget:
            return []
        batch = take_wanted(self._window, budget, MAX_TEXTS_PER_BATCH, late)
        if self._window and lane is not self._lanes.whole:
            self._lanes.wake_share()
        return batch

    def _computed(
        self, lane: Lane, batch: Batch, waits: tuple[float, ...], *, has_computed: bool
    ) -> None:
        with self._lock:
            lane.is_busy = False
            self._busy_with.pop(lane.task, None)
            seconds = self._watchdog.end(lane.task, has_computed=has_computed)
            waiting = len(self._window)
            tokens = self._live.computed(batch, seconds)
        if self._on_batch is not None:
            rows, longest = sum(map(len, batch)), max(max(share.lengths) for share in batch)
            self._on_batch(BatchFacts(rows, tokens, longest, seconds, waiting, waits))

    # The tokenising thread -------------------------------------------------------------------

    def _tokenize_next(self) -> bool:
        """Tokenise a slice of each request that runs out of tokens, or wait for one; False once closed."""
        with self._lock:
            if self._live.is_closed:
                return False
            jobs = self._intake.take_for_thread()
            if jobs:
                self._busy_with["tokenize"] = jobs
        if jobs:
            self._tokenize_all("tokenize", jobs)
        else:
            self._intake.inbox.wait()
        return True

    def _tokenize_all(self, task: str, jobs: list[EmbedJob]) -> None:
        """Tokenise the next slice of each of `jobs`, with which the thread of `task` is busy."""
        wanted = [job for job in jobs if not (job.done() or job.fail_if_late())]
        done = self._tokenize(wanted, self._live.leave) if wanted else []
        with self._lock:
            self._busy_with.pop(task, None)
            for owner, tokenized in done:
                if isinstance(owner, EmbedJob) and owner.done():
                    continue
                self._add(owner, tokenized)
                if isinstance(owner, EmbedJob) and not owner.texts.is_tokenized:
                    self._intake.add(owner)
            self._lanes.wake(len(self._window))

    # Ending ----------------------------------------------------------------------------------

    def _bury(self, task: str, error: BaseException) -> None:
        """Answer the requests that a dead thread was busy with, and replace it."""
        with self._lock:
            victims = self._busy_with.pop(task, [])
            self._crew.forget(task)
            self._has_lanes = False
            self._watchdog.forget(task)
            for lane in self._lanes:
                if lane.task == task:
                    lane.reset()
            self._lanes.wake(len(self._window))
            is_spent = isinstance(error, EngineClosedError) or not self._restarts.allows_one_more()
            if is_spent or not (self._live.is_closed or self._crew.replace(task)):
                victims = self._refuse()
        for job in victims:
            job.fail(cause_of_death(task, error))

    def _refuse(self) -> list[EmbedJob]:
        """Close, under the lock; who has no answer yet."""
        jobs = self._live.close()
        self._lanes.wake_all()
        self._intake.inbox.nudge()
        return jobs

    def close(self) -> None:
        """Answer everyone at once; the running batch ends on its own."""
        if self._crew.is_inherited:
            return
        with self._lock:
            pending = self._refuse()
        for job in pending:
            job.fail(EngineClosedError("the local engine was closed"))
        self._crew.disband()
