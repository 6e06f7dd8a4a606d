"""Makes requirements.lock: what CI installs, each file by its SHA-256; and checks an installation.

    .venv/bin/python scripts/lock.py           resolves anew, after pyproject.toml or constraints.txt changed
    .venv/bin/python scripts/lock.py --check   what is installed here is what the lock lists, and no more

pip itself resolves (`pip install --dry-run --report`), from wherever it is configured to; so the lock is for
machines like this one. The file of torch may differ between them, because a machine may have a wheel of its own:
each that is found, here and on the index, is listed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OURS = "hybrid-infer"
# As scripts/_venv.sh installs them; with pip itself, and what hatchling needs for an editable installation.
WANTED = ("pip>=25.1", "editables>=0.5", "torch", ".[demo,server]", "--group", "dev")
HEAD = """\
# What CI installs (CPython {version}, {platform}), made by: .venv/bin/python scripts/lock.py
#
#   pip install --require-hashes --no-deps -r requirements.lock
"""


def resolved(*words: str, **environment: str) -> list[tuple[str, str, str]]:
    """Name, version and SHA-256 of every file that pip would install."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--only-binary=:all:", f"--no-binary={OURS}"),
                *("--report", str(report), "--constraint", "constraints.txt", *words),
            ],
            cwd=ROOT,
            check=True,
            env={**os.environ, **environment},
        )
        entries = json.loads(report.read_bytes())["install"]
    return [
        (
            canonicalize_name(entry["metadata"]["name"]),
            entry["metadata"]["version"],
            entry["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for entry in entries
        if canonicalize_name(entry["metadata"]["name"]) != OURS
    ]


def make_lock() -> str:
    """The text of the lock."""
    files = resolved(*WANTED)
    # Without this machine's configuration: the index's own build of it.
    files += resolved("--no-deps", "torch", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    hashes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, version, sha256 in files:
        hashes[name, Version(version).public].add(sha256)  # 2.13.0 is also 2.13.0+cpu
    lines = [
        HEAD.format(version="{}.{}".format(*sys.version_info[:2]), platform=sys.platform),
        *(
            " \\\n    ".join(
                [f"{name}=={version}", *(f"--hash=sha256:{one}" for one in sorted(of))]
            )
            for (name, version), of in sorted(hashes.items())
        ),
    ]
    return "\n".join(lines) + "\n"


def locked_versions(text: str) -> dict[str, str]:
    """The version of each package that a lock lists."""
    requirements = [
        Requirement(line.removesuffix("\\").strip())
        for line in text.splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    ]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in requirements
    }


def differences(locked: dict[str, str], installed: dict[str, str]) -> list[str]:
    """What an installation has otherwise than the lock, one sentence each."""
    found = [
        f"{name} {version} is installed, and the lock lists {locked.get(name, 'none')}"
        for name, version in sorted(installed.items())
        if Version(version).public != locked.get(name)
    ]
    return found + [f"{name} is not installed" for name in sorted(locked.keys() - installed.keys())]


def check() -> int:
    """Compare what is installed with the lock."""
    installed = {
        canonicalize_name(found.name): found.version
        for found in distributions()
        if canonicalize_name(found.name) != OURS
    }
    wrong = differences(locked_versions(LOCK.read_text(encoding="utf-8")), installed)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(f"requirements.lock: {len(installed)} packages installed, {len(wrong)} otherwise")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    LOCK.write_text(make_lock(), encoding="utf-8")
