"""What comparing weights with models.lock costs: python scripts/bench_lock.py FOLDER [FOLDER …].

Each folder's files are read twice by one process; the page cache holds them before the first time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hybrid_infer.snapshots.verification import measured


def main(folders: list[Path]) -> None:
    """Print one line for each folder, and one for all of them at once."""
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                file.read_bytes()
        started_at = time.perf_counter()
        files = measured(folder)
        first = time.perf_counter() - started_at
        started_at = time.perf_counter()
        measured(folder)
        again = time.perf_counter() - started_at
        size = sum(file.size for file in files.values())
        print(
            f"{folder.name}: {size / 1e6:,.0f} MB in {len(files)} files: "
            f"{first:.3f} s ({first / (size / 1e9):.2f} s per GB), again {again * 1e3:.1f} ms"
        )


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
