"""The decoding loop: requests from any thread join and leave a batch between two of its steps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import EngineClosedError, HybridInferError
from hybrid_infer.local.generation.batch import Batch
from hybrid_infer.local.generation.decoders import Decoder
from hybrid_infer.local.generation.job import ChatJob
from hybrid_infer.local.generation.scheduling import Limits, Schedule
from hybrid_infer.local.supervision import (
    Crew,
    RestartLimit,
    Watchdog,
    cause_of_death,
)
from hybrid_infer.local.translation import local_errors
from hybrid_infer.local.waiting import too_late


class DecodeLoop:
    """Two threads: one turns requests into tokens, the other decodes them, all in one batch.

    Args:
        name: what the threads' names begin with.
        decoder: computes.
        prepare: tokenises a request.
        limits: what the loop may hold.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        name: str,
        decoder: Decoder,
        prepare: Callable[[ChatJob], None],
        *,
        limits: Limits,
        clock: Clock = time.monotonic,
    ) -> None:
        self._decoder, self._prepare, self._clock = decoder, prepare, clock
        self._lock = threading.Lock()
        self._can_prepare = threading.Condition(self._lock)
        self._can_decode = threading.Condition(self._lock)
        self._unprepared: deque[ChatJob] = deque()
        self._preparing: ChatJob | None = None
        self._schedule: Schedule[ChatJob] = Schedule(limits)
        self._batch = Batch(decoder)
        self._restarts = RestartLimit(clock)
        self._watchdog = Watchdog(clock)
        self._crew = Crew(name, self._bury)
        self._live: dict[ChatJob, None] = {}
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused: closed, dead, or inherited by a fork."""
        return self._is_closed or self._crew.is_inherited

    @property
    def is_busy(self) -> bool:
        """Whether anybody has no answer yet."""
        return any(not job.is_done for job in list(self._live))

    @property
    def computed_seconds(self) -> float | None:
        """How long ago it last computed anything; None: it has not yet."""
        return self._watchdog.computed_seconds

    def submit(self, job: ChatJob) -> None:
        """Put a request in the queue.

        Raises:
            EngineClosedError: closed, died too often, or belongs to a parent process.
            OverloadedError: the queue is full, or a step does not end.
        """
        self._crew.refuse_if_inherited()
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the local engine is closed")
            self._watchdog.refuse_if_stuck("step")
            is_preparing = self._preparing is not None
            self._schedule.check_room(len(self._unprepared) + is_preparing + len(self._schedule))
            self._crew.ensure("prepare", self._prepare_next)
            self._crew.ensure("decode", self._step)
            self._live[job] = None
            self._unprepared.append(job)
            self._can_prepare.notify()

    # The preparing thread --------------------------------------------------------------------

    def _prepare_next(self) -> bool:
        """Wait for a request and tokenise it; False once closed."""
        with self._lock:
            while not self._unprepared and not self._is_closed:
                self._can_prepare.wait()
            if self._is_closed:
                return False
            job = self._preparing = self._unprepared.popleft()
        error: HybridInferError | None = None
        if not job.is_done:
            try:
                with local_errors("tokenising"):
                    self._prepare(job)
            except HybridInferError as caught:
                error = caught
        with self._lock:
            self._preparing = None
            if error is None and not job.is_done:
                try:
                    self._schedule.add(job, job.places)
                except HybridInferError as caught:
                    error = caught
            if error is None and not job.is_done:
                self._can_decode.notify()
            else:
                self._live.pop(job, None)
        if error is not None:
            job.fail(error)
        return True

    # The decoding thread ---------------------------------------------------------------------

    def _step(self) -> bool:
        """Wait until there is something to do, and do a step of it; False once closed."""
        with self._lock:
            late: list[ChatJob] = []
            while not self._is_closed and not self._has_work(late):
                self._can_decode.wait()
            if self._is_closed:
                self._batch.clear()
                return False
            self._watchdog.begin("decode")
        progress = self._batch.progress
        for job in late:
            job.fail(too_late(job.deadline))
        with torch.inference_mode():
            self._batch.drop_unwanted()
            tokens, seconds, beside = self._prefill()
            started = self._clock()
            count = 0 if beside else self._batch.decode()
        with self._lock:
            self._watchdog.end("decode", has_computed=self._batch.progress > progress)
            if not beside:  # else nobody knows which part took how long
                self._schedule.measured_prefill(tokens, seconds)
                self._schedule.measured(count, self._clock() - started)
            done = [job for job in self._live if job.is_done]
            for job in done:
                del self._live[job]
            if done:
                self._schedule.forget(lambda job: job.is_done)
        return True

    def _has_work(self, late: list[ChatJob]) -> bool:
        """Let requests join that may; whether there is anything to compute or to tell."""

        def is_wanted(job: ChatJob) -> bool:
            if not job.is_done and not job.deadline.expired():
                return True
            self._live.pop(job, None)
            if not job.is_done:
                late.append(job)
            return False

        in_use = [job.places for job in self._batch.jobs if not job.is_done]
        while (job := self._schedule.next(in_use, is_wanted)) is not None:
            self._batch.join(job)
            in_use.append(job.places)
        return bool(self._batch or late)

    def _prefill(self) -> tuple[int, float, int]:
        """Compute pieces of prompts, if any wait: their tokens, the seconds, and the answers beside."""
        left = self._batch.prompt_tokens_left
        if not left:
            return 0, 0.0, 0
        size = self._schedule.prefill_size(
            left, is_alone=not self._batch.num_answers, is_mixed=self._decoder.mixes
        )
        started, progress = self._clock(), self._batch.progress
        beside = self._batch.prefill(size)
        seconds = self._clock() - started
        has_computed = self._batch.progress > progress  # else all have failed, and teach nothing
        read = left - self._batch.prompt_tokens_left if has_computed else 0
        return read, seconds, beside

    # Ending ----------------------------------------------------------------------------------

    def _bury(self, task: str, error: BaseException) -> None:
        """Answer the requests that a dead thread was busy with, and replace it."""
        with self._lock:
            if task == "decode":
                victims = self._batch.jobs
                if not isinstance(error, EngineClosedError):  # else its device answers no more
                    self._batch.clear()
                self._watchdog.forget(task)
            else:
                victims = [self._preparing] if self._preparing is not None else []
                self._preparing = None
            self._crew.forget(task)
            is_spent = isinstance(error, EngineClosedError) or not self._restarts.allows_one_more()
            if is_spent or not (self._is_closed or self._crew.replace(task)):
                victims = self._refuse()
            for job in victims:
                self._live.pop(job, None)
        for job in victims:
            job.fail(cause_of_death(task, error))

    def _refuse(self) -> list[ChatJob]:
        """Close, under the lock; who has no answer yet."""
        self._is_closed = True
        self._can_prepare.notify_all()
        self._can_decode.notify_all()
        self._unprepared.clear()
        self._schedule.clear()
        pending = list(self._live)
        self._live.clear()
        return pending

    def close(self) -> None:
        """Answer everyone at once; the running step ends on its own."""
        if self._crew.is_inherited:
            return
        with self._lock:
            pending = self._refuse()
        for job in pending:
            job.fail(EngineClosedError("the local engine was closed"))
        self._crew.disband()
