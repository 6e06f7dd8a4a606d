"""Locks between processes: exclusive, bounded, and free again when their holder dies."""

import os
import signal
import subprocess
import sys
from itertools import count

import pytest

from hybrid_infer.errors import LocalEngineError
from hybrid_infer.snapshots.guards import guarded

HOLDER = """
import pathlib, sys
from hybrid_infer.snapshots.guards import guarded
with guarded(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    path = tmp_path / "locks" / "it.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        yield path, holder
        holder.kill()


def test_waiting_ends_when_nothing_moves(held, clock):
    path, _ = held
    started_at = clock()
    with (
        pytest.raises(LocalEngineError, match=r"it\.lock for 60 s"),
        guarded(path, clock=clock, sleep=clock.advance),
    ):
        pytest.fail("it is held")
    assert 60 <= clock() - started_at < 61


def test_waiting_goes_on_while_something_moves(held, clock):
    path, holder = held
    steps = count()

    def sleep(seconds):
        clock.advance(seconds)
        if next(steps) == 5_000:  # 250 s, of which each moved something
            holder.stdin.close()
            holder.wait()

    with guarded(path, progress=clock, clock=clock, sleep=sleep):
        assert holder.returncode == 0


def test_a_killed_holder_holds_nothing(held, clock):
    path, holder = held
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with guarded(path, clock=clock, sleep=lambda _: pytest.fail("it waited")):
        pass


def test_one_holds_it_at_a_time_in_one_process_too(tmp_path, clock):
    path = tmp_path / "it.lock"
    with (
        guarded(path),
        pytest.raises(LocalEngineError),
        guarded(path, clock=clock, sleep=clock.advance),
    ):
        pytest.fail("it is held")


def test_a_place_that_is_none_is_said(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(LocalEngineError, match="could not be made"),
        guarded(tmp_path / "file" / "it.lock"),
    ):
        pytest.fail("there is no such place")
