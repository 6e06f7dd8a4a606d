"""Compute threads: how many batches a machine computes side by side, each on how many cores."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from hybrid_infer.local.embedding.crowd import Batch

CUDA_LANES = (
    4  # two kept an H200 busy for 0.80 of the time, four for 0.87 to 0.91; docs/benchmarks.md
)
LANE_TOKENS = 1_024  # of a batch at least; with fewer, more time goes into what is around it
BUDGETS_AHEAD = 2  # batches that are tokenised before they are needed
LEAST_TOKENS = 512  # of a batch that is worth it: one of twice as many takes 2 % less for each


class Runner(Protocol):
    """Computes batches on a thread of its own."""

    token_budget: int

    def prepare(self) -> None:
        """Called once on the thread, before its first batch."""
        ...

    def run(self, batch: Batch, *, normalize: bool) -> bool:
        """Compute a batch and deliver to its owners; whether anything came of it but errors."""
        ...


@dataclass(slots=True, eq=False)
class Lane:
    """A compute thread.

    Attributes:
        task: its name.
        runner: computes its batches.
        can_start: it waits for this.
        is_prepared: whether its thread has begun.
        is_busy: whether it computes a batch.
        is_waiting: whether it waits, and has not been woken.
        has_tokenized: whether it has tokenised short requests since its last batch.
    """

    task: str
    runner: Runner
    can_start: threading.Condition
    is_prepared: bool = False
    is_busy: bool = False
    is_waiting: bool = False
    has_tokenized: bool = False

    def reset(self) -> None:
        """Its thread has died; another one begins."""
        self.is_prepared = self.is_busy = self.is_waiting = self.has_tokenized = False

    def wait(self) -> None:
        """Wait to be woken; under the lock."""
        self.is_waiting = True
        self.can_start.wait()
        self.is_waiting = False

    def wake(self) -> bool:
        """Wake it, under the lock; False if it does not wait."""
        was_waiting, self.is_waiting = self.is_waiting, False
        self.can_start.notify()
        return was_waiting


class Lanes:
    """The compute threads of an engine, and whose turn it is; whoever uses them holds the lock.

    What comes alone is computed by the first lane, on all cores; as soon as more waits, the others
    share them.

    Args:
        runners: of each lane.
        lock: the engine's.
        fills_batches: see `Scheduler`.

    Attributes:
        whole: the first lane.
        shares: the others.
    """

    def __init__(
        self, runners: Sequence[Runner], lock: threading.Lock, *, fills_batches: bool
    ) -> None:
        self._fills_batches = fills_batches
        self.whole, *self.shares = (
            Lane(f"compute-{number}", runner, threading.Condition(lock))
            for number, runner in enumerate(runners)
        )

    def __iter__(self) -> Iterator[Lane]:
        return iter((self.whole, *self.shares))

    def tokens_ahead(self) -> int:
        """How many tokens may wait before they are needed."""
        lanes = self.shares or [self.whole]
        return BUDGETS_AHEAD * sum(lane.runner.token_budget for lane in lanes)

    @property
    def num_idle(self) -> int:
        """How many of those that share the cores do not compute."""
        return sum(not lane.is_busy for lane in self.shares)

    def has_turn(self, lane: Lane, waiting: int) -> bool:
        """Whether it is a lane's turn; else one whose turn it is is woken.

        Args:
            lane: it asks.
            waiting: sequences that wait.
        """
        if self.whole.is_busy:
            return False
        if self._is_alone(waiting) is (lane is self.whole):
            return True
        if waiting:
            self.wake(waiting)
        return False

    def budget_of(self, lane: Lane, waiting: int, *, comes_more: bool, is_crowded: bool) -> int:
        """How many tokens a lane takes, whose turn it is; 0: it waits for more.

        Who tokenises wakes a lane; and a lane that computes takes afterwards what there is.

        Args:
            lane: it asks.
            waiting: tokens that wait.
            comes_more: whether more is being tokenised, or about to be.
            is_crowded: whether many callers wait.
        """
        budget, idle = lane.runner.token_budget, self.num_idle
        least = min(budget, LEAST_TOKENS, self.tokens_ahead()) if is_crowded else 0
        if self._fills_batches and idle < len(self.shares):
            least, comes_more = budget, comes_more or is_crowded
        if comes_more and waiting < least:
            return 0
        if self._fills_batches or lane is self.whole:
            return budget
        return min(budget, share_of(waiting, idle, len(self.shares), is_crowded=is_crowded))

    def wake(self, waiting: int) -> None:
        """Wake a lane that may have a turn, while so many sequences wait."""
        if self._is_alone(waiting):
            self.whole.wake()
        else:
            self.wake_share()

    def wake_share(self) -> None:
        """Wake the first that waits of those that share the cores: it has recorded most batches."""
        for lane in self.shares:
            if lane.wake():
                return

    def wake_all(self) -> None:
        """Wake every lane."""
        for lane in self:
            lane.wake()

    def _is_alone(self, waiting: int) -> bool:
        """Whether what waits finds the engine idle, and itself alone."""
        return not self.shares or (waiting <= 1 and self.num_idle == len(self.shares))


def lane_threads(device: str, token_budget: int) -> tuple[int | None, ...]:
    """The cores of each lane on a device; None: no share of them; empty: one batch at a time.

    A GPU computes some lanes' batches while the others deliver their last and pack their next.

    Args:
        device: where batches are computed.
        token_budget: tokens that are computed at the same time at most.
    """
    import torch

    if device.startswith("cuda"):
        return (None,) * CUDA_LANES
    if device != "cpu" or not _is_openmp_at_hand():
        return ()
    return split_cores(torch.get_num_threads(), token_budget)


def split_cores(cores: int, token_budget: int) -> tuple[int, ...]:
    """The cores of each lane; empty if there is no second one.

    Batches side by side are faster than one on all cores: at the end of every operator the cores of a
    batch wait for each other. So there are as many lanes as cores, unless their batches became small.

    Args:
        cores: to be shared.
        token_budget: tokens that are computed at the same time at most, by all lanes.
    """
    lanes = min(cores, token_budget // LANE_TOKENS)
    if lanes <= 1:
        return ()
    least, more = divmod(cores, lanes)
    return tuple(least + (lane < more) for lane in range(lanes))


def share_of(waiting: int, idle: int, lanes: int, *, is_crowded: bool) -> int:
    """The tokens that a lane takes of those that wait, so that others find some too.

    Args:
        waiting: tokens that wait.
        idle: lanes that do not compute, this one among them.
        lanes: all of them.
        is_crowded: whether many callers wait: short batches keep their turns short, and while a lane
            answers one, the next callers' texts are there already.
    """
    share = -(-waiting // lanes)
    if idle < lanes:
        share = max(share, LEAST_TOKENS)
    return min(share, LEAST_TOKENS) if is_crowded else share


def set_own_threads(number: int) -> None:
    """Let torch's operators use `number` threads when this thread calls them.

    `torch.set_num_threads` would also say so for every thread that has not computed yet; OpenMP's
    own function (OpenMP 5.2, section 18.2.1) speaks for the calling thread alone.
    """
    import torch

    torch.get_num_threads()  # torch sets it once itself, when a thread first asks
    _openmp().omp_set_num_threads(number)


def _openmp() -> ctypes.CDLL:
    """What the process has loaded for all to see, torch's OpenMP among it."""
    return ctypes.CDLL(None)


@cache
def _is_openmp_at_hand() -> bool:
    """Whether `set_own_threads` does what it says; asked on a thread that then ends."""
    import torch

    numbers: list[int] = []

    def limit() -> None:
        with suppress(AttributeError, OSError, TypeError):  # no such function, or no such loader
            set_own_threads(1)
            numbers.append(torch.get_num_threads())

    thread = threading.Thread(target=limit)
    thread.start()
    thread.join()
    return numbers == [1]
