"""What embedding on a GPU costs its host, measured where there is none.

Run it with ``python scripts/bench_embed_host.py --weights FOLDER``. In place of the GPU stands a device that
computes nothing, but takes its time: so many tokens a second, one batch after another, as a GPU does without
the interpreter. All else is the library's: tokenizer, window, lanes, how a batch is written, how rows get to
their callers. It prints a Markdown table; with ``--write`` it goes to docs/benchmarks.md, too.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from _embedders import FOLDERS, PACKAGES
from _peer import in_turn
from _report import Table, machine, weights_folder, write_section
from bench_embed_gpu import CALLERS, PARTS, OnGpu, texts

GPU = "cuda"  # what the library is told; it asks no GPU anything here
SPEEDS = (12, 16, 18)  # million tokens a second


class Device:
    """Takes its time, and notes from when to when.

    Args:
        width: of its rows.
    """

    direct = None

    def __init__(self, width: int) -> None:
        self._width = width
        self._block = np.zeros(1 << 18, np.int32)
        self._lock = threading.Lock()
        self._free_at = 0.0
        self.tokens_per_second = 0.0  # 0: it takes no time
        self.computed: list[tuple[float, float]] = []

    def encode(self, sequences: Any, *, normalize: bool) -> NDArray[np.float32]:  # noqa: ARG002 - as every encoder
        """Rows of ones, once it has had the time for `sequences`."""
        from hybrid_infer.local.embedding.encoders.shapes import Shape

        shape = Shape.around(sequences)
        shape.fill(memoryview(self._block)[: shape.size], sequences)
        if self.tokens_per_second:
            with self._lock:
                begins = max(time.perf_counter(), self._free_at)
                self._free_at = ends = begins + len(sequences.ids) / self.tokens_per_second
                self.computed.append((begins, ends))
            time.sleep(max(0.0, ends - time.perf_counter()))
        return np.ones((len(sequences), self._width), np.float32)

    def busy(self, begins: float, ends: float) -> float:
        """Which share of a time it has computed."""
        within = (min(end, ends) - max(begin, begins) for begin, end in self.computed)
        return sum(max(0.0, seconds) for seconds in within) / (ends - begins)


class OnDevice(OnGpu):
    """The engine as it is on a GPU, on such a device."""

    def load(self, folder: Path, facts: Any, dtype: str, device: str) -> Device:  # noqa: ARG002 - as `Ours`
        """See `Ours.load`."""
        return Device(facts.dim)

    def token_budget(self, facts: Any, dtype: str, device: str) -> int:  # noqa: ARG002 - as `Ours`
        """See `Ours.token_budget`: as much memory as it wants."""
        from hybrid_infer.local.embedding.sizing import MOST_GPU_TOKENS

        return MOST_GPU_TOKENS


def seconds_of(do: Callable[[int], object], *, collects: bool) -> float:
    """The seconds that callers take, with the garbage collector or without."""
    if not collects:
        gc.disable()
    started = time.perf_counter()
    do(CALLERS)
    seconds = time.perf_counter() - started
    gc.enable()
    return seconds


def bulk(table: Table, ours: OnDevice, repeats: int) -> None:
    """All texts in one call, on devices of several speeds."""
    for millions in SPEEDS:
        ours.encoder.tokens_per_second = millions * 1e6
        rates, shares = [], []
        for turn in range(repeats + 1):
            ours.encoder.computed.clear()
            started = time.perf_counter()
            ours.bulk()
            seconds = time.perf_counter() - started
            if turn:
                rates.append(len(texts()) / seconds)
                middle = (started + seconds / 4, started + 3 * seconds / 4)
                shares.append(ours.encoder.busy(*middle))
        table.add(
            f"bulk, a device of {millions} M tokens/s",
            "",
            f"{statistics.median(rates):.0f} texts/s; busy {statistics.median(shares):.3f}",
        )
    ours.encoder.tokens_per_second = 0.0


def callers(table: Table, ours: OnDevice, repeats: int) -> None:
    """Callers in one event loop, and what they would take if nothing were done for them."""
    contenders = {
        "callers of one text, a device that takes no time": ours.callers,
        "callers of an engine that answers at once": ours.callers_of_nothing,
        "tasks that wait as often, and get nothing": ours.callers_for_nothing,
    }
    count = len(texts()) // PARTS
    plain, bare = (
        in_turn(
            {name: partial(seconds_of, do, collects=collects) for name, do in contenders.items()},
            repeats,
        )
        for collects in (True, False)
    )
    for name in contenders:
        table.add(
            f"{CALLERS} {name}",
            "",
            f"{1e6 * plain[name] / count:.1f} µs a call, {1e6 * bare[name] / count:.1f} without the "
            "garbage collector",
        )


def main(arguments: Sequence[str]) -> None:
    """Measure everything and report."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", help="folder of the real weights, for the tokenizer")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = Table()
    ours = OnDevice(weights_folder(options.weights) / FOLDERS["small"], "bfloat16", GPU)
    bulk(table, ours, options.repeats)
    callers(table, ours, options.repeats)
    report = f"{machine(PACKAGES)} {len(texts())} texts, {options.repeats} repeats."
    report += f"\n\n{table.markdown()}"
    print(report)
    if options.write:
        write_section("embeddings around a GPU", report)


if __name__ == "__main__":
    main(sys.argv[1:])
