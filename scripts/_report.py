"""What the benchmarks share: a table of rows with targets, the machine, a section of the docs."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hybrid_infer

ROOT = Path(__file__).resolve().parent.parent


class Table:
    """The rows of the report."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []

    def add(self, name: str, target: str, measured: str, *, good: bool | None = None) -> None:
        """One row, printed at once."""
        verdict = "" if good is None else "met" if good else "**missed**"
        self.rows.append((name, target, measured, verdict))
        print(f"{name}: {measured} ({target}) {verdict}", flush=True)

    def markdown(self) -> str:
        """All rows."""
        lines = ["| what | target | measured | |", "| --- | --- | --- | --- |"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows])


def machine(packages: Sequence[str], device: str = "cpu") -> str:
    """The machine, by what matters and nothing that names it, and the versions of `packages`."""
    info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    known = ("avx512f", "avx512_bf16", "amx_bf16")
    flags = [flag for flag in known if flag in fields.get("flags", "").split()]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{fields.get('model name', 'unknown CPU')}, {os.cpu_count()} cores ({', '.join(flags)}); "
        f"Python {sys.version.split()[0]}, {versions}, hybrid_infer {hybrid_infer.__version__}. "
        + ("On the CPU." if device == "cpu" else gpu(device))
    )


def gpu(device: str) -> str:
    """A GPU, its driver and torch's CUDA."""
    import torch

    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[0]
    name = torch.cuda.get_device_name(device)
    return f"One {name}, driver {driver}, CUDA {torch.version.cuda}."


def write_section(name: str, report: str) -> None:
    """Replace one section of docs/benchmarks.md, between its two marks."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    file = ROOT / "docs" / "benchmarks.md"
    before, rest = file.read_text(encoding="utf-8").split(start)
    after = rest.split(end)[1]
    file.write_text(f"{before}{start}\n{report}\n{end}{after}", encoding="utf-8")


@contextmanager
def staged_small(given: str | None) -> Iterator[str]:
    """A cache of the Hub's layout that holds the real `small`, for this process and those it starts.

    Args:
        given: the folder of the real weights; None: see `weights_folder`.
    """
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.download import stage

    folder = weights_folder(given) / "all-MiniLM-L6-v2"
    with tempfile.TemporaryDirectory() as hub:
        os.environ["HF_HUB_CACHE"] = hub
        stage(folder, load_registry().resolve("embeddings", "small"))
        yield hub


def weights_folder(given: str | None) -> Path:
    """Where the real weights are; fetches them if nobody says."""
    named = given or os.environ.get("HYBRID_INFER_TEST_WEIGHTS")
    if named:
        return Path(named)
    fetch = [sys.executable, "scripts/fetch_weights.py", "--all"]
    done = subprocess.run(fetch, check=True, capture_output=True, text=True, cwd=ROOT)
    return Path(done.stdout.strip())
