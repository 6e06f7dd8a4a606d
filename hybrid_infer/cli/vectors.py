"""Where embedded lines go: stdout, or memory."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]


class StandardOutput:
    """One JSON array a line on stdout."""

    def write(self, vectors: Vectors) -> None:
        """Print the next window, float32 ``(n, dim)``."""
        from hybrid_infer.bulk.outputs import shortest

        for row in shortest(vectors):
            print(json.dumps(row))
        sys.stdout.flush()


class Held:
    """Keeps every window in memory; `rows` joins them."""

    def __init__(self) -> None:
        self._windows: list[Vectors] = []

    def write(self, vectors: Vectors) -> None:
        """Keep the next window, float32 ``(n, dim)``."""
        self._windows.append(vectors)

    def rows(self) -> list[list[float]]:
        """All windows' vectors as lists."""
        from hybrid_infer.bulk.outputs import shortest

        return [row for window in self._windows for row in shortest(window)]


Sink = StandardOutput | Held
