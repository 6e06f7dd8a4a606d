"""Where embedded vectors go: stdout, a JSON-lines file, or a numpy file."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_infer.cli import output

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

FORMATS = (".npy", ".jsonl")


def rows(vectors: Vectors) -> list[list[float]]:
    """`vectors` as lists of the shortest floats that read back as the same float32."""
    return [[float(str(number)) for number in row] for row in vectors]


class StandardOutput:
    """One JSON array a line on stdout."""

    def write(self, vectors: Vectors) -> None:
        """Print the next window, float32 ``(n, dim)``."""
        for row in rows(vectors):
            print(json.dumps(row))
        sys.stdout.flush()

    def commit(self) -> None:
        """Nothing: what was printed is printed."""

    def discard(self) -> None:
        """Nothing: what was printed is printed."""


class Held:
    """Keeps every window in memory; `stacked` joins them."""

    def __init__(self) -> None:
        self._windows: list[Vectors] = []

    def write(self, vectors: Vectors) -> None:
        """Keep the next window, float32 ``(n, dim)``."""
        self._windows.append(vectors)

    def stacked(self) -> Vectors:
        """All windows as one float32 ``(n, dim)`` array; there is always at least one."""
        import numpy as np

        return np.concatenate(self._windows)

    def commit(self) -> None:
        """Nothing: the caller takes `stacked`."""

    def discard(self) -> None:
        """Nothing to undo."""


class VectorFile:
    """A ``.npy`` or ``.jsonl`` file that appears under its name only when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._held = Held() if path.suffix == ".npy" else None
        with _explained(path):
            self._stream = self._partial.open("wb")

    def write(self, vectors: Vectors) -> None:
        """Take the next window, float32 ``(n, dim)``."""
        if self._held is not None:
            self._held.write(vectors)
            return
        lines = "".join(json.dumps(row) + "\n" for row in rows(vectors))
        with _explained(self._path):
            self._stream.write(lines.encode())

    def commit(self) -> None:
        """Finish the file and give it its name."""
        import numpy as np

        with _explained(self._path):
            if self._held is not None:
                np.save(self._stream, self._held.stacked(), allow_pickle=False)
            self._stream.close()
            self._partial.replace(self._path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._stream.close()
        self._partial.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output.UsageFault(f"cannot write {path}: {error.strerror}") from error


Sink = StandardOutput | Held | VectorFile


@contextmanager
def committed(sink: Sink) -> Iterator[Sink]:
    """Commit `sink` when the block ends well; leave nothing behind when it does not."""
    try:
        yield sink
        sink.commit()
    except BaseException:
        sink.discard()
        raise
