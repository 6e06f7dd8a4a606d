"""What a run did, from its windows' lines in the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class BulkSummary:
    """What became of an input, earlier runs of it included.

    Attributes:
        texts: rows that were embedded.
        bad_rows: rows that could not be.
        prompt_tokens: tokens computed; None if a backend did not say.
        truncations: texts cut at the model's limit; None if a backend did not say.
        served: texts, by who served them: a remote's name or ``local``.
        windows: windows, likewise.
        resumed_windows: windows that an earlier run had done.
        space: the vectors' space; None without vectors.
        output: the file; None for standard output.
        errors: the file of bad rows; None if there were none.
        seconds: how long this run took.
        compute_seconds: how long of it a window was being embedded.
    """

    texts: int
    bad_rows: int
    prompt_tokens: int | None
    truncations: int | None
    served: dict[str, int]
    windows: dict[str, int]
    resumed_windows: int
    space: dict[str, Any] | None
    output: Path | None = None
    errors: Path | None = None
    seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(slots=True)
class Tally:
    """Counts windows, from the journal or as they are done."""

    texts: int = 0
    bad_rows: int = 0
    prompt_tokens: int | None = 0
    truncations: int | None = 0
    served: Counter[str] = field(default_factory=Counter)
    windows: Counter[str] = field(default_factory=Counter)
    last: Mapping[str, Any] | None = None

    def add(self, window: Mapping[str, Any]) -> None:
        """Count one window."""
        self.bad_rows += window["bad"]
        if not window["rows"]:
            return
        self.texts += window["rows"]
        self.prompt_tokens = _sum(self.prompt_tokens, window["prompt_tokens"])
        self.truncations = _sum(self.truncations, window["truncations"])
        self.served[window["served_by"]] += window["rows"]
        self.windows[window["served_by"]] += 1
        self.last = window

    def summary(self, resumed_windows: int) -> BulkSummary:
        """What was counted."""
        return BulkSummary(
            texts=self.texts,
            bad_rows=self.bad_rows,
            prompt_tokens=self.prompt_tokens,
            truncations=self.truncations,
            served=dict(self.served),
            windows=dict(self.windows),
            resumed_windows=resumed_windows,
            space=None if self.last is None else dict(self.last["space"]),
        )


def row_groups(windows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each window with rows: how many, who served it, and how."""
    kept = ("rows", "served_by", "reason", "verified", "dtype", "quantization")
    return [{name: window[name] for name in kept} for window in windows if window["rows"]]


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
