"""Compute threads: how many batches a machine computes side by side, each on how many cores."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from hybrid_infer.local.embedding.batching import Entry
from hybrid_infer.local.embedding.job import EmbedJob

LANES = 2
_counting = threading.Lock()


class Runner(Protocol):
    """Computes batches on a thread of its own."""

    token_budget: int

    def prepare(self) -> None:
        """Called once on the thread, before its first batch."""
        ...

    def run(self, batch: list[Entry[EmbedJob]], *, normalize: bool) -> None:
        """Compute a batch and deliver to the owners of its entries."""
        ...


@dataclass(slots=True, eq=False)
class Lane:
    """A compute thread: its task's name, what it runs batches with, and whom it serves now."""

    task: str
    runner: Runner
    can_start: threading.Condition
    is_prepared: bool = False
    is_busy: bool = False


def lane_threads(device: str) -> tuple[int, ...]:
    """The cores of each lane on a device; empty if one batch at a time is best.

    On a CPU two batches on half of the cores each are faster than one on all of them: at the end
    of every operator the cores of a batch wait for each other.
    """
    import torch

    threads = torch.get_num_threads() // LANES
    return (threads,) * LANES if device == "cpu" and threads and _has_openmp() else ()


def _has_openmp() -> bool:
    """Whether the number of threads is each calling thread's own, as it is with OpenMP alone."""
    import torch

    return "parallel backend: OpenMP" in torch.__config__.parallel_info()


def set_own_threads(number: int | None) -> None:
    """Let operators called from this thread use `number` threads, and no other thread's fewer.

    torch also notes the number as that of threads which have not computed yet; a short-lived
    thread notes the usual one again.

    Args:
        number: threads; None: as many as torch uses by itself.
    """
    import torch

    with _counting:
        usual = torch.get_num_threads()  # from now on this thread's own
        if number is not None:
            torch.set_num_threads(number)
            restorer = threading.Thread(target=torch.set_num_threads, args=(usual,))
            restorer.start()
            restorer.join()
