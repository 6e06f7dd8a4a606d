"""How rows are embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybrid_infer.client.windows import WINDOW_CHARACTERS, WINDOW_TEXTS, WindowCutter

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """How rows are embedded.

    Attributes:
        model: an alias or a Hub id.
        normalize: whether vectors have unit length.
        truncate: whether over-long texts are cut; if not, their rows are bad.
        route: ``local``, ``remote`` or a remote's name; None leaves it to the policy.
        deadline: seconds for each window; None: the client's.
        on_error: what a bad row does: ``fail`` ends the run, ``skip`` leaves it out.
        window_texts: rows of a window at most.
        window_characters: a window ends with the row that reaches them.
    """

    model: str = "default"
    normalize: bool = True
    truncate: bool = True
    route: str | None = None
    deadline: float | None = None
    on_error: OnError = "fail"
    window_texts: int = WINDOW_TEXTS
    window_characters: int = WINDOW_CHARACTERS

    def cutter(self) -> WindowCutter:
        """Where windows end."""
        return WindowCutter(self.window_texts, self.window_characters)
