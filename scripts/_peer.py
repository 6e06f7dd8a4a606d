"""A contender of a benchmark, in a process of its own: contenders in one process slow each other down.

Two libraries that compute in one process keep a team of OpenMP threads for each thread that calls
them, more threads than cores, and each waits for the other's; a user would run only one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Peer:
    """A contender's process, seen from outside.

    Args:
        script: the benchmark; it is called with ``--serve`` and the arguments.
        arguments: what the process is to load.
        python: the interpreter, where the contender lives in another environment.
    """

    def __init__(self, script: str, *arguments: str, python: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, script, "--serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": _python_path()},
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def seconds(self, do: str, **options: Any) -> float:
        """Have a command done; the seconds that it took."""
        return float(self.ask(do, **options)["seconds"])

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Have a command done; what it answers."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a peer has died; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


def _python_path() -> str:
    """This project in front of what the caller's environment adds."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def in_turn(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each; they alternate, so that noise hits them alike. One turn warms up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            seconds = call()
            if turn:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer commands from standard input, one JSON a line, until it closes.

    What the libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
