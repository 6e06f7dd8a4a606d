"""How many mutants the tests killed, file by file: what `mutmut run` left behind, as a table.

scripts/audit/mutants runs it. It ends with 1 if fewer than ``--least`` per cent of all are killed. A mutant
under which the tests ran out of time is killed, as everywhere: the endless loop was noticed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mutmut.mutation.data import SourceFileMutationData
from mutmut.stats import status_by_exit_code

PACKAGE = Path("hybrid_infer")
KILLED = ("killed", "timeout")


def statuses(file: Path) -> dict[str, str]:
    """What became of each mutant of `file`, by the mutant's name."""
    data = SourceFileMutationData(path=file)
    data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}


def row(name: str, counts: Counter[str]) -> str:
    """One line of the table."""
    total = counts.total()
    killed = sum(counts[status] for status in KILLED)
    return f"| {name} | {total} | {killed} | {total - killed} | {killed / total:.1%} |"


def main() -> int:
    """Print the table; whether the score is high enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="such as routing/breaker.py; all without")
    parser.add_argument("--least", type=float, default=85.0, help="per cent; fails below")
    parser.add_argument("--show", action="store_true", help="show each survivor's change")
    asked = parser.parse_args()
    found = sorted((PACKAGE / "routing").glob("*.py"))
    files = [PACKAGE / name for name in asked.files] or found
    total: Counter[str] = Counter()
    survivors: list[str] = []
    print("| file | mutants | killed | survived | score |\n| --- | --: | --: | --: | --: |")
    for file in files:
        verdicts = statuses(file)
        if verdicts:
            counts = Counter(verdicts.values())
            total += counts
            survivors += [name for name, status in verdicts.items() if status not in KILLED]
            print(row(file.name, counts))
    if not total:
        print("No mutants: has mutmut run?", file=sys.stderr)
        return 1
    print(row("all", total))
    for name in survivors if asked.show else ():
        subprocess.run(["mutmut", "show", name], check=True)
    killed = sum(total[status] for status in KILLED)
    return 0 if 100 * killed >= asked.least * total.total() else 1


if __name__ == "__main__":
    sys.exit(main())
