"""Threads that are replaced when they die, and batches that take suspiciously long."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import EngineClosedError, OverloadedError

STUCK_SECONDS = 30.0
STUCK_FACTOR = 20
RESTARTS, RESTART_SECONDS = 3, 60.0
JOIN_SECONDS = 5.0
BATCHES_REMEMBERED = 100  # so the slowest of them is about their 99th percentile
logger = logging.getLogger("hybrid_infer")

Step = Callable[[], bool]


class RestartLimit:
    """Allows a bounded number of restarts within a sliding time.

    Args:
        clock: a monotonic clock in seconds.
        restarts: restarts allowed within `seconds`.
        seconds: the sliding time.
    """

    def __init__(
        self, clock: Clock, restarts: int = RESTARTS, seconds: float = RESTART_SECONDS
    ) -> None:
        self._restarts, self._seconds, self._clock = restarts, seconds, clock
        self._times: deque[float] = deque()

    def allows_one_more(self) -> bool:
        """Count a death; whether its thread may be replaced."""
        now = self._clock()
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self._restarts


class ProcessBound:
    """What works only in the process that made it: no thread survives a fork."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether this is the copy of a forked child."""
        return self._process != os.getpid()

    def refuse_if_inherited(self) -> None:
        """Refuse whoever comes in a forked child; torch's own pool may hold a lock there for ever.

        Raises:
            EngineClosedError: this is one.
        """
        if self.is_inherited:
            raise EngineClosedError("this engine was made before a fork; make a new client here")


class Crew(ProcessBound):
    """Daemon threads by task; each repeats its step until that returns False.

    Args:
        name: what the threads' names begin with.
        bury: told the task and what its thread died of, on the dying thread.
    """

    def __init__(self, name: str, bury: Callable[[str, BaseException], None]) -> None:
        super().__init__()
        self._name, self._bury = name, bury
        self._steps: dict[str, Step] = {}
        self._threads: dict[str, threading.Thread] = {}

    def lacks(self, task: str) -> bool:
        """Whether a task has no thread."""
        return task not in self._threads

    def ensure(self, task: str, step: Step) -> None:
        """Start the thread of a task, unless it runs.

        Raises:
            OverloadedError: the system has no thread left.
        """
        if task in self._threads:
            return
        thread = threading.Thread(
            target=self._loop, args=(task, step), name=f"{self._name}-{task}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise OverloadedError(f"no thread for the local engine: {error}") from error
        self._steps[task], self._threads[task] = step, thread

    def _loop(self, task: str, step: Step) -> None:
        try:
            while step():
                pass
        except BaseException as error:  # the callers of a dying thread must get an answer
            logger.exception("the thread %s-%s died", self._name, task)
            self._bury(task, error)

    def forget(self, task: str) -> None:
        """The thread of a task has died."""
        del self._threads[task]

    def replace(self, task: str) -> bool:
        """Start the thread of a task again; False if the system has none left."""
        try:
            self.ensure(task, self._steps[task])
        except OverloadedError:
            return False
        return True

    def disband(self, seconds: float = JOIN_SECONDS) -> None:
        """Wait for every thread but the calling one, at most `seconds` for each; none comes after.

        What they did is forgotten: it knows the engine, which knows this. So a closed engine is freed
        as soon as nobody else knows it, even if an application has told the garbage collector to pass
        it by (``gc.freeze``).
        """
        for thread in list(self._threads.values()):
            if thread is not threading.current_thread():
                thread.join(seconds)
        self._steps.clear()
        self._bury = _nobody_buries


def _nobody_buries(task: str, error: BaseException) -> None:
    """What a thread is told that dies after its crew was disbanded: everyone has an answer already."""


class Watchdog:
    """Knows a batch that will not end from one that is slow. It has no thread: whoever comes asks.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._computed_at: float | None = None
        self._started: dict[Hashable, float] = {}
        self._durations: deque[float] = deque(maxlen=BATCHES_REMEMBERED)

    def begin(self, lane: Hashable) -> None:
        """A lane starts on a batch."""
        self._started[lane] = self._clock()

    def end(self, lane: Hashable, *, has_computed: bool = True) -> float:
        """A lane has done its batch; the seconds that it took.

        Args:
            lane: which.
            has_computed: whether anything came of it but errors.
        """
        now = self._clock()
        seconds = now - self._started.pop(lane)
        self._durations.append(seconds)
        if has_computed:
            self._computed_at = now
        return seconds

    @property
    def computed_seconds(self) -> float | None:
        """How long ago a batch last came to something; None: none has."""
        at = self._computed_at
        return None if at is None else max(0.0, self._clock() - at)

    def forget(self, lane: Hashable) -> None:
        """A lane has died."""
        self._started.pop(lane, None)

    def refuse_if_stuck(self, work: str) -> None:
        """Refuse whoever comes while a batch runs for far longer than any should.

        Args:
            work: what a batch is called in the message.

        Raises:
            OverloadedError: one does.
        """
        started = list(self._started.values())  # at once: batches begin and end meanwhile
        if not started:
            return
        seconds = self._clock() - min(started)
        if seconds <= STUCK_SECONDS:
            return
        if seconds > STUCK_FACTOR * max(list(self._durations), default=0.0):
            raise OverloadedError(
                f"the local engine is stuck: a {work} has run for {seconds:.0f} s",
                retry_after=STUCK_SECONDS,
            )


def cause_of_death(task: str, error: BaseException) -> EngineClosedError:
    """What the callers of a dead thread are told."""
    if isinstance(error, EngineClosedError):
        return EngineClosedError(error.message)
    return EngineClosedError(f"the {task} thread of the local engine died ({type(error).__name__})")
