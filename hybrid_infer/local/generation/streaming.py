"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what a decoder gives for bytes that are not a whole character yet

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Decodes a growing sequence of tokens piece by piece.

    Each step decodes a short window twice, with and without the newest tokens, and takes the
    difference: how a token reads may depend on its neighbours. The text of an unfinished character
    is held back until it is whole.

    Args:
        decode: token ids to text, special tokens left out.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0  # where the window starts
        self._read = 0  # tokens whose text is out

    def push(self, token: int) -> str:
        """The text that `token` completes, possibly none."""
        self._ids.append(token)
        return self._step(is_last=False)

    def flush(self) -> str:
        """The text still held back, when no token follows."""
        return self._step(is_last=True)

    def _step(self, *, is_last: bool) -> str:
        before = self._decode(self._ids[self._window : self._read])
        now = self._decode(self._ids[self._window :])
        if len(now) <= len(before) or (now.endswith(REPLACEMENT) and not is_last):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return now[len(before) :]


class StopMatcher:
    """Lets text through until a stop string appears, wherever its tokens are cut.

    Args:
        stops: strings that end the answer; none of their text is let through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._has_stopped = False

    def has_stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._has_stopped

    def push(self, text: str) -> str:
        """The text that may go out: all of it but what may yet turn out to be a stop string."""
        if not self._stops:
            return text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._has_stopped = True
            out, self._held = self._held[: min(found)], ""
            return out
        keep = self._possible_start()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def flush(self) -> str:
        """The text still held back, when nothing follows."""
        out, self._held = self._held, ""
        return out

    def _possible_start(self) -> int:
        """Length of the longest ending that begins a stop string."""
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            ending = self._held[-size:]
            if any(stop.startswith(ending) for stop in self._stops):
                return size
        return 0
