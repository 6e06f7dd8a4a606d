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
            env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)},
        )

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Have a command done."""
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


def in_turn(peers: Mapping[str, Peer], repeats: int, do: str, **options: Any) -> dict[str, float]:
    """Median seconds of each peer; they alternate, so that noise hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, peer in peers.items():
            taken[name].append(peer.ask(do, **options)["seconds"])
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
