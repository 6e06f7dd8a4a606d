"""One compute thread and its bounded queue: what every local engine runs on."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import Protocol

from hybrid_infer.errors import EngineClosedError, HybridInferError, OverloadedError

JOIN_SECONDS = 5.0
logger = logging.getLogger("hybrid_infer")


class Job(Protocol):
    """A unit of work. `run` and `fail` deliver to the caller and never raise for its mistakes."""

    def run(self) -> None:
        """Compute and deliver."""
        ...

    def fail(self, error: HybridInferError) -> None:
        """Deliver an error instead."""
        ...

    def abandon(self) -> None:
        """Ask a running job to end at its next step."""
        ...


class Worker:
    """Runs jobs one after the other on a daemon thread that starts with the first of them.

    Args:
        name: the thread's name.
        max_jobs: jobs that may wait; one more is an `OverloadedError`.
    """

    def __init__(self, name: str, max_jobs: int) -> None:
        self._name = name
        self._max_jobs = max_jobs
        self._jobs: deque[Job] = deque()
        self._running: Job | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._owner = os.getpid()

    @property
    def is_closed(self) -> bool:
        """Whether jobs are refused: closed, dead, or inherited by a fork."""
        return self._is_closed or self._owner != os.getpid()

    def submit(self, job: Job) -> None:
        """Put a job in the queue.

        Raises:
            EngineClosedError: the worker is closed, has died, or belongs to a parent process.
            OverloadedError: the queue is full.
        """
        if self._owner != os.getpid():
            # The thread did not survive the fork, and torch's own pool may hold a lock for ever.
            raise EngineClosedError("this engine was made before a fork; make a new client here")
        with self._wake:
            if self._is_closed:
                raise EngineClosedError("the local engine is closed")
            if len(self._jobs) >= self._max_jobs:
                raise OverloadedError(
                    f"the local queue is full ({self._max_jobs} calls wait)", retry_after=1.0
                )
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._is_closed:
                    self._wake.wait()
                if self._is_closed:
                    return
                job = self._running = self._jobs.popleft()
            try:
                job.run()
            except BaseException as error:  # the callers of a dying thread must get an answer
                logger.exception("the compute thread %s died", self._name)
                dead = EngineClosedError(f"the compute thread died ({type(error).__name__})")
                job.fail(dead)
                self._refuse_all(dead)
                return
            finally:
                self._running = None

    def _refuse_all(self, error: HybridInferError) -> None:
        with self._wake:
            self._is_closed = True
            pending, self._jobs = self._jobs, deque()
            self._wake.notify_all()
        for job in pending:
            job.fail(error)

    def close(self) -> None:
        """Answer everyone at once, and let the running job end at its next step."""
        if self._owner != os.getpid():
            return
        closed = EngineClosedError("the local engine was closed")
        self._refuse_all(closed)
        running = self._running
        if running is not None:
            running.fail(closed)
            running.abandon()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_SECONDS)
