"""What pip-audit's document says: python scripts/audit/advisories.py FILE LOG.

Ends with 1 if a package has a known vulnerability, or if pip-audit failed. A database that is out of
reach, by what its log says, or an index that does not know the packages, compares nothing: that is
said, and is no failure.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# What requests and urllib3 say of a host that cannot be reached.
_UNREACHABLE = re.compile(
    r"Max retries exceeded|NameResolutionError|Failed to (resolve|establish)|Connection (refused|reset)"
    r"|ConnectionError|Network is unreachable|Connect(ion)?Timeout|[Rr]ead timed out|ProxyError"
)


def main(path: Path, log: Path) -> int:
    """Print one line, and one for each vulnerability; returns the exit status."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["dependencies"]
    except (ValueError, KeyError, TypeError):
        if not _UNREACHABLE.search(log.read_text(encoding="utf-8")):
            print("pip-audit: it failed, and not for want of a network; see its last lines")
            return 1
        print("pip-audit: its database is out of reach from here; nothing was compared")
        return 0
    compared = [entry for entry in listed if "skip_reason" not in entry]
    bad = [(entry["name"], vuln["id"]) for entry in compared for vuln in entry.get("vulns", ())]
    for name, identifier in bad:
        print(f"  {name}: {identifier}")
    unknown = len(listed) - len(compared)
    print(
        f"pip-audit: {len(bad)} known vulnerabilities in {len(compared)} packages; {unknown} could "
        "not be looked up from here"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
