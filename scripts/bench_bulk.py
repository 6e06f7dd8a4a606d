"""How close embedding a file comes to embedding in memory, and what memory it takes.

Run it with ``python scripts/bench_bulk.py`` (from a bare checkout it installs into .venv first). A
Parquet file of short texts is embedded into another, beside one ``embed`` call with the same texts;
they take turns in one process, and medians count. Memory is that of the first run, before any call
that holds all vectors. It prints a Markdown table and writes it to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
try:
    import hybrid_infer  # noqa: F401 - whether it is installed
except ImportError:
    subprocess.run(["bash", "-c", "source scripts/_venv.sh"], check=True, cwd=ROOT)
    python = str(ROOT / ".venv" / "bin" / "python")
    os.execv(python, [python, *sys.argv])  # noqa: S606 - this script, in the environment just made

sys.path.insert(0, str(Path(__file__).parent))
from _report import Table, machine, weights_folder, write_section  # noqa: E402 - behind the above
from bench_embed import docstrings  # noqa: E402 - as above

MODEL = "small"
LEAST_RATIO = 0.95
MOST_MEGABYTES = 200
MOST_WAITING = 0.05
MOST_GROWTH_MEGABYTES = 20  # of the second half over the first: flat
SAMPLE_SECONDS = 0.05


class Memory:
    """Samples this process's resident memory on a thread."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.samples: list[float] = []

    def now(self) -> float:
        """Megabytes resident."""
        return float(self._process.memory_info().rss) / 1e6

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.samples.append(self.now())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def short_texts(count: int) -> list[str]:
    """First lines of docstrings, each with its number, so that no two are the same."""
    lines = [text.partition("\n")[0] for text in docstrings()]
    return [f"{index}: {line}" for index, line in enumerate(islice(cycle(lines), count))]


def written(folder: Path, texts: list[str]) -> Path:
    """A Parquet file with the texts and a column beside them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
    return path


def measure(table: Table, folder: Path, texts: list[str], repeats: int) -> None:
    """Measure all rows."""
    from hybrid_infer import HybridClient
    from hybrid_infer.bulk import BulkOptions, embed_to_file, open_source

    path, options = written(folder, texts), BulkOptions(model=MODEL)
    with HybridClient(policy="local-only") as client:
        client.embed(texts[: options.window_texts], MODEL)

        def file_run() -> tuple[float, float]:
            summary = embed_to_file(client, open_source(str(path)), folder / "out.parquet", options)
            return summary.seconds, 1 - summary.compute_seconds / summary.seconds

        with Memory() as memory:
            before = memory.now()
            files = [file_run()]
        in_memory: list[float] = []
        for turn in range(repeats):
            if turn:
                files.append(file_run())
            started_at = time.perf_counter()
            client.embed(texts, MODEL)
            in_memory.append(time.perf_counter() - started_at)
    report(table, len(texts), files, in_memory)
    report_memory(table, before, memory.samples)


def report(
    table: Table, count: int, files: list[tuple[float, float]], in_memory: list[float]
) -> None:
    """Rows about time."""
    there = count / statistics.median(seconds for seconds, _ in files)
    here = count / statistics.median(in_memory)
    table.add(
        f"{count:,} short texts, file to file",
        f"≥ {LEAST_RATIO} of one call in memory",
        f"{there:.0f} texts/s beside {here:.0f}, {there / here:.3f}",
        good=there / here >= LEAST_RATIO,
    )
    waiting = statistics.median(share for _, share in files)
    table.add(
        "share of the time in which no window is computed",
        f"< {MOST_WAITING:.0%}",
        f"{waiting:.1%}",
        good=waiting < MOST_WAITING,
    )


def report_memory(table: Table, before: float, samples: list[float]) -> None:
    """Rows about memory."""
    half = len(samples) // 2
    above, growth = max(samples) - before, max(samples[half:]) - max(samples[:half])
    table.add(
        "peak memory of the file's run",
        f"≤ {MOST_MEGABYTES} MB above the warm engine",
        f"{above:.0f} MB above {before:.0f} MB",
        good=above <= MOST_MEGABYTES,
    )
    table.add(
        "peak of its second half over the first's",
        "flat",
        f"{growth:+.0f} MB",
        good=growth <= MOST_GROWTH_MEGABYTES,
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", help="folder of the real weights")
    options = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HUB_CACHE"] = str(folder / "hub")
        from hybrid_infer import HybridClient

        with HybridClient() as client:
            source = weights_folder(options.weights) / "all-MiniLM-L6-v2"
            client.pull(f"embeddings/{MODEL}", source=source, progress=False)
        measure(table, folder, short_texts(options.texts), options.repeats)
    about = machine(("torch", "numpy", "pyarrow"))
    report = f"{about} {options.repeats} repeats.\n\n{table.markdown()}"
    print("\n" + report)
    write_section("bulk", report)


if __name__ == "__main__":
    main()
