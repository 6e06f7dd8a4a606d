"""Write docs/faults.md from tests/faults/faults.yaml. Run it after any change of that file."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]  # the checkout, installed or not


def main() -> None:
    """Write the page."""
    from fault_table.page import PATH, page
    from fault_table.table import load_table

    PATH.write_text(page(load_table()), encoding="utf-8")
    print(PATH.relative_to(ROOT))


if __name__ == "__main__":
    main()
