"""Trees of control groups as kernels and container runtimes lay them out, in a folder of the test."""

import pytest

from hybrid_infer.local.cgroups import cgroup_headroom
from hybrid_infer.local.hardware import available_memory

GIB = 1024**3
UNLIMITED_V1 = 9223372036854771712


class Machine:
    def __init__(self, root):
        self.root = root
        self.process = root / "proc"
        self.process.mkdir()
        self.groups, self.mounts = [], []

    def mount(self, point, kind, options="rw", root="/"):
        folder = self.root / point
        folder.mkdir(parents=True, exist_ok=True)
        self.mounts.append(f"35 31 0:32 {root} {folder} rw,relatime shared:9 - {kind} x {options}")

    def put(self, folder, **files):
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (self.root / folder / name.replace("__", ".")).write_text(f"{value}\n")

    def headroom(self):
        (self.process / "cgroup").write_text("\n".join(self.groups) + "\n")
        (self.process / "mountinfo").write_text("\n".join(self.mounts) + "\n")
        return cgroup_headroom(self.process)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def unified(machine):
    """Version 2: the process is in /a/b/c, no limit anywhere."""
    machine.groups.append("0::/a/b/c")
    machine.mount("fs", "cgroup2", "rw,nsdelegate")
    for folder in ("fs/a", "fs/a/b", "fs/a/b/c"):
        machine.put(folder, memory__max="max", memory__high="max", memory__current=GIB)
    return machine


def test_no_limit_is_none(unified):
    assert unified.headroom() is None


@pytest.mark.parametrize("level", ["fs/a", "fs/a/b", "fs/a/b/c"])
def test_a_limit_at_any_level_counts(unified, level):
    unified.put(level, memory__max=4 * GIB)
    assert unified.headroom() == 3 * GIB


def test_the_tightest_level_wins_and_its_own_use_is_what_counts(unified):
    unified.put("fs/a", memory__max=10 * GIB, memory__current=9 * GIB)
    unified.put("fs/a/b/c", memory__max=3 * GIB)
    assert unified.headroom() == GIB


def test_the_throttle_is_a_limit_too(unified):
    unified.put("fs/a/b", memory__max=8 * GIB, memory__high=5 * GIB)
    assert unified.headroom() == 4 * GIB


def test_pages_of_files_that_nobody_reads_are_not_in_the_way(unified):
    unified.put("fs/a/b/c", memory__max=4 * GIB, memory__current=3 * GIB)
    unified.put("fs/a/b/c", memory__stat=f"anon 5\ninactive_file {2 * GIB}\nactive_file {GIB}\nodd")
    assert unified.headroom() == 3 * GIB
    unified.put("fs/a/b/c", memory__stat=f"inactive_file {99 * GIB}")
    assert unified.headroom() == 4 * GIB


def test_more_used_than_allowed_leaves_nothing(unified):
    unified.put("fs/a", memory__max=GIB, memory__current=2 * GIB)
    assert unified.headroom() == 0


def test_version_1_has_other_names_and_a_huge_number_for_none(machine):
    machine.groups += ["5:cpu,cpuacct:/x", "4:hugetlb,memory:/a/b", "0::/"]
    machine.mount("cpu", "cgroup", "rw,cpu,cpuacct")
    machine.mount("memory", "cgroup", "rw,memory")
    machine.mount("unified", "cgroup2")
    machine.put("memory/a/b", memory__limit_in_bytes=UNLIMITED_V1, memory__usage_in_bytes=GIB)
    assert machine.headroom() == UNLIMITED_V1 - GIB, "min() with what is free makes it harmless"
    machine.put("memory/a", memory__limit_in_bytes=6 * GIB, memory__usage_in_bytes=2 * GIB)
    machine.put("memory/a", memory__stat=f"inactive_file 1\ntotal_inactive_file {GIB}")
    assert machine.headroom() == 5 * GIB


def test_both_versions_at_once(machine):
    machine.groups += ["4:memory:/old", "0::/new"]
    machine.mount("memory", "cgroup", "rw,memory")
    machine.mount("unified", "cgroup2")
    machine.put("memory/old", memory__limit_in_bytes=9 * GIB, memory__usage_in_bytes=0)
    machine.put("unified/new", memory__max=7 * GIB, memory__current=0)
    assert machine.headroom() == 7 * GIB


def test_a_container_that_is_shown_the_hosts_path_reads_its_own_mount(machine):
    """Without a namespace for control groups: the path is the host's, the mount its own part."""
    machine.groups.append("4:memory:/docker/0123/inner")
    machine.mount("memory", "cgroup", "rw,memory", root="/docker/0123")
    machine.put("memory", memory__limit_in_bytes=8 * GIB, memory__usage_in_bytes=GIB)
    machine.put("memory/inner", memory__limit_in_bytes=6 * GIB, memory__usage_in_bytes=GIB)
    assert machine.headroom() == 5 * GIB


def test_a_path_outside_of_what_is_mounted_leaves_the_mount_point(machine):
    machine.groups.append("0::/../../elsewhere")
    machine.mount("fs", "cgroup2", root="/pod/7")
    machine.put("fs", memory__max=2 * GIB, memory__current=GIB)
    assert machine.headroom() == GIB


def test_what_cannot_be_read_is_no_limit(machine, tmp_path):
    assert cgroup_headroom(tmp_path / "nothing") is None
    machine.groups.append("0::/a")
    machine.mounts += ["", "broken", "35 31 0:32 / /x rw", "35 31 0:32 / /x rw - "]
    machine.mount("fs", "cgroup2")
    machine.put("fs/a", memory__max="nonsense", memory__current="?")
    assert machine.headroom() is None


def test_this_machine_has_some_memory():
    import psutil

    assert 0 < available_memory() <= psutil.virtual_memory().available + 2**30
