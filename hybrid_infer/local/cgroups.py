"""What Linux control groups leave this process of the memory: version 1, version 2, or both.

A group is bounded by its own limit and by those of all groups above it, so every level counts from
the process's own group up to the root of what is mounted. Formats: proc_pid_mountinfo(5),
cgroups(7) and the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class _Files:
    """The names under which one version of control groups tells limits and use.

    Attributes:
        limits: each may say ``max``, or a number far beyond any memory, for none.
        usage: bytes in use, the page cache included.
        reclaimable: the key in memory.stat of file pages that are given up before anything fails.
    """

    limits: tuple[str, ...]
    usage: str
    reclaimable: str


_FILES = {
    "cgroup": _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    "cgroup2": _Files(("memory.max", "memory.high"), "memory.current", "inactive_file"),
}


def cgroup_headroom(process: Path = Path("/proc/self")) -> int | None:
    """Bytes that the process's control groups still allow; None if none sets a limit.

    Args:
        process: the process's folder under /proc.
    """
    try:
        groups = (process / "cgroup").read_text(encoding="utf-8", errors="replace")
        mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or /proc is hidden
        return None
    left = [
        headroom
        for folder, files in _folders(groups, mounts)
        if (headroom := _headroom(folder, files)) is not None
    ]
    return min(left, default=None)


def _folders(groups: str, mounts: str) -> Iterator[tuple[Path, _Files]]:
    """Every level's folder, from the process's own up to the mount point."""
    paths = dict(_group_paths(groups))
    for kind, root, mount_point in _mounts(mounts):
        path = paths.get(kind)
        if path is None:
            continue
        # A container may see only a part of the tree, whose root its own path then begins with.
        parts = path.parts[len(root.parts) :] if path.is_relative_to(root) else ()
        for depth in range(len(parts), -1, -1):
            yield mount_point.joinpath(*parts[:depth]), _FILES[kind]


def _group_paths(groups: str) -> Iterator[tuple[str, PurePosixPath]]:
    """The process's group in each version, from lines such as ``4:memory:/a/b`` and ``0::/a/b``."""
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            yield "cgroup", PurePosixPath(path)
        elif number == "0" and not controllers:
            yield "cgroup2", PurePosixPath(path)


def _mounts(mounts: str) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """Kind, root within the tree, and mount point of each mounted tree that may bound memory."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(), after.split()
        if len(fields) < 5 or not source or source[0] not in _FILES:  # noqa: PLR2004 - see the manual page
            continue
        if source[0] == "cgroup2" or "memory" in source[-1].split(","):
            yield source[0], PurePosixPath(fields[3]), Path(fields[4])


def _headroom(folder: Path, files: _Files) -> int | None:
    limits = [limit for name in files.limits if (limit := _number(folder / name)) is not None]
    usage = _number(folder / files.usage)
    if not limits or usage is None:
        return None
    return max(0, min(limits) - max(0, usage - _reclaimable(folder, files)))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file at the root, or "max"
        return None


def _reclaimable(folder: Path, files: _Files) -> int:
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    stat = dict(line.split(maxsplit=1) for line in lines if " " in line)
    value = stat.get(files.reclaimable, "0")
    return int(value) if value.isdigit() else 0
