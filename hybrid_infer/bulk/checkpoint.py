"""What is done of a file: parts and a journal, in a folder beside the output.

A window counts once its line in the journal is on the disk, and its parts are there before. So a
kill at any moment loses at most the windows under way, and doubles none.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hybrid_infer.errors import CheckpointError

VERSION = 2
JOURNAL = "journal.jsonl"
RESTART = "--restart starts over"


class Checkpoint:
    """The folder of one output.

    Args:
        output: the file that the parts will make.
        identity: everything that the windows depend on: input, options, model. An input that is None
            cannot be read again: what was begun with one is thrown away by whoever comes next.
        restart: whether what is there is thrown away.

    Raises:
        CheckpointError: what is there belongs to another input or other options, or somebody
            else writes it at this moment.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], *, restart: bool) -> None:
        self.folder = output.with_name(f".{output.name}.parts")
        self.windows: list[dict[str, Any]] = []
        self.folder.mkdir(exist_ok=True)
        self._journal: IO[bytes] = (self.folder / JOURNAL).open("ab+")
        try:
            self._lock(output)
            if restart:
                self._journal.truncate(0)
            self._recover(output, json.loads(json.dumps(identity)))
        except BaseException:
            self._journal.close()
            raise

    def part(self, index: int, suffix: str) -> Path:
        """The path of a window's part."""
        return self.folder / f"{index:08d}{suffix}"

    def add(self, window: Mapping[str, Any], parts: Sequence[Path]) -> None:
        """Count a window whose parts are written."""
        for path in parts:
            sync(path)
        sync(self.folder)
        self._append(window)
        self.windows.append(dict(window))

    def close(self) -> None:
        """Let go of the folder; what is in it stays for the next run."""
        with suppress(OSError):  # what a full disk did not take has been told
            self._journal.close()

    def remove(self) -> None:
        """Remove the folder: the output is complete, or nobody can go on with it."""
        # The journal goes first: it may not outlive a part that it counts.
        with suppress(OSError):
            (self.folder / JOURNAL).unlink()
            sync(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._journal.close()

    def _lock(self, output: Path) -> None:
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"another process is writing {output}") from error

    def _recover(self, output: Path, identity: dict[str, Any]) -> None:
        self._journal.seek(0)
        lines = self._journal.read().splitlines(keepends=True)
        known: list[dict[str, Any]] = []
        end = 0
        for line in lines:
            with suppress(ValueError):
                entry = json.loads(line) if line.endswith(b"\n") else None
                if isinstance(entry, dict):
                    known.append(entry)
                    end += len(line)
                    continue
            break  # torn by a kill: what follows was never counted
        if known and _is_lost(known[0]):
            known, end = [], 0
        self._journal.truncate(end)
        if not known:
            self._remove_parts()
            self._append({"version": VERSION, "identity": identity})
            sync(self.folder.parent)
            return
        found = known[0].get("identity")
        if known[0].get("version") != VERSION or found != identity:
            raise CheckpointError(
                f"{output} was begun with different {_difference(found, identity)}; "
                f"{RESTART}, or name another output"
            )
        self.windows = known[1:]

    def _remove_parts(self) -> None:
        """Nothing counts them, and none of this run may be taken for one of theirs."""
        for path in self.folder.iterdir():
            if path.name != JOURNAL:
                path.unlink()

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())


def _is_lost(header: Mapping[str, Any]) -> bool:
    """Whether nobody can go on with a run, for its input is gone."""
    identity = header.get("identity")
    return isinstance(identity, dict) and "input" in identity and identity["input"] is None


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _difference(found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "code of this package"
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return " and ".join(names) or "code of this package"
