"""Compute threads: how many batches a machine computes side by side, each on how many cores."""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeAlias

from hybrid_infer.local.embedding.batching import Share
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.texts import Slice

CUDA_LANES = 4
LANE_TOKENS = 1_024  # of a batch at least; with fewer, more time goes into what is around it
LEAST_TOKENS = 512  # of a batch that is worth it: one of twice as many takes 2 % less for each


Batch: TypeAlias = "list[Share[EmbedJob, Slice]]"


class Runner(Protocol):
    """Computes batches on a thread of its own."""

    token_budget: int

    def prepare(self) -> None:
        """Called once on the thread, before its first batch."""
        ...

    def run(self, batch: Batch, *, normalize: bool) -> None:
        """Compute a batch and deliver to its owners."""
        ...


@dataclass(slots=True, eq=False)
class Lane:
    """A compute thread: its task's name, what it runs batches with, and whom it serves now."""

    task: str
    runner: Runner
    can_start: threading.Condition
    is_prepared: bool = False
    is_busy: bool = False


def lane_threads(device: str, token_budget: int) -> tuple[int | None, ...]:
    """The cores of each lane on a device; None: no share of them; empty: one batch at a time.

    A GPU computes one lane's batch while the other lane delivers its last and packs its next.

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
