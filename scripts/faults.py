"""Run the fault table with many calls: python scripts/faults.py --calls 1000 [pytest's arguments].

Each fault gets so many calls on each surface, with a local copy and without, spread over its forms
(at least one each; a form that is tried at every byte, once). The last line counts them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the checkout, installed or not


def main() -> int:
    """Run the table's tests; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000, help="for each fault and surface")
    arguments, others = parser.parse_known_args()
    table = ROOT / "tests" / "faults" / "test_faults.py"
    return pytest.main(
        [
            f"--rootdir={ROOT}",
            f"--config-file={ROOT / 'pyproject.toml'}",
            f"--fault-calls={arguments.calls}",
            "--timeout=0",  # a test takes as long as its calls
            "-q",
            str(table),
            *others,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
