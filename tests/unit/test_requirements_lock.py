"""requirements.lock is of these dependencies, and its check can fail."""

import importlib.util
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("lock_script", ROOT / "scripts" / "lock.py")
lock_script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock_script)

TEXT = (ROOT / "requirements.lock").read_text()
LOCKED = lock_script.locked_versions(TEXT)
AGAIN = "make it anew: .venv/bin/python scripts/lock.py"


def test_every_file_has_a_hash():
    entries = TEXT.replace("\\\n", "").splitlines()
    for entry in filter(None, entries):
        assert entry.startswith("#") or "--hash=sha256:" in entry
    (torch,) = (entry for entry in entries if entry.startswith("torch=="))
    assert torch.count("--hash=sha256:") == 2  # the index's, and that of a machine's own wheel


def test_it_has_the_versions_of_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for one in pinned:
        version = LOCKED.get(canonicalize_name(one.name))
        assert version is None or one.specifier.contains(version), f"{one}: {AGAIN}"
    unpinned = LOCKED.keys() - {canonicalize_name(one.name) for one in pinned} - {"pip"}
    assert unpinned == set(), "constraints.txt pins what CI installs"


def test_it_has_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    asked = [*project["project"]["dependencies"], *extras["demo"], *extras["server"]]
    asked += [entry for entry in groups["dev"] if isinstance(entry, str)] + groups["docs"]
    for one in map(Requirement, asked):
        if one.marker is not None and not one.marker.evaluate({"python_version": "3.11"}):
            continue
        version = LOCKED.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name}: {AGAIN}"
        assert one.specifier.contains(version), f"{one}: {AGAIN}"


def test_the_check_sees_what_is_otherwise():
    locked = {"a": "1", "b": "2", "torch": "2.13.0"}
    assert lock_script.differences(locked, {"a": "1", "b": "2", "torch": "2.13.0+cpu"}) == []
    assert lock_script.differences(locked, {"a": "1", "b": "3", "c": "1"}) == [
        "b 3 is installed, and the lock lists 2",
        "c 1 is installed, and the lock lists none",
        "torch is not installed",
    ]
