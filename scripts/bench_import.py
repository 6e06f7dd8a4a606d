"""How long importing takes: medians of fresh interpreters, an empty one subtracted.

Run it with .venv/bin/python scripts/bench_import.py; it prints a Markdown table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 21
BUDGETS = {
    "import hybrid_infer": 50,
    "from hybrid_infer import HybridClient": 250,
    "from hybrid_infer import HybridClient; HybridClient(profile='tiny')": None,
    "from hybrid_infer.cli import app": 400,
}
PEERS = {
    "import huggingface_hub; huggingface_hub.InferenceClient": None,
    "import sentence_transformers": None,
}


def seconds(statement: str) -> float:
    """One fresh interpreter's wall time."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Alternate all statements, so that noise hits them alike."""
    statements = {"pass": None, **BUDGETS, **PEERS}
    repeats = dict.fromkeys(statements, REPEATS) | dict.fromkeys(PEERS, 3)
    taken: dict[str, list[float]] = {statement: [] for statement in statements}
    for statement in statements:
        seconds(statement)  # warm the file cache
    for index in range(REPEATS):
        for statement in statements:
            if index < repeats[statement]:
                taken[statement].append(seconds(statement))
    empty = statistics.median(taken["pass"])
    print("| statement | median, ms | budget, ms |")
    print("| --- | ---: | ---: |")
    for statement, budget in list(statements.items())[1:]:
        median = (statistics.median(taken[statement]) - empty) * 1e3
        print(f"| `{statement}` | {median:.0f} | {budget or ''} |")


if __name__ == "__main__":
    main()
