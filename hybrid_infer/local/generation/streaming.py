"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONTEXT_TOKENS = 6
REPLACEMENT = "\ufffd"  # what a decoder gives for bytes that are not a whole character yet

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Decodes a growing sequence of tokens piece by piece.

    Each step decodes a short window twice, with and without the newest tokens, and takes the
    difference: how a token reads may depend on its neighbours. The text of an unfinished character
    is held back until it is whole.

    Args:
        decode: token ids to text, special tokens left out.
        seen: tokens of a text that goes on.
        text: that text; what the tokens do not spell of it is not given again.
    """

    def __init__(self, decode: Decode, seen: Sequence[int] = (), text: str = "") -> None:
        self._decode = decode
        self._ids = list(seen)
        self._read = len(self._ids)  # tokens whose text is out
        while self._read and decode(self._ids[: self._read]).endswith(REPLACEMENT):
            self._read -= 1
        self._window = max(0, self._read - CONTEXT_TOKENS)  # where the window starts
        self._known = max(0, len(text) - len(decode(self._ids[: self._read])))

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
        # A decoder may give up a whole run of bytes for a part of a character behind it.
        is_kept = now.startswith(before)
        new = now[len(before) :] if is_kept else self._decode(self._ids[self._read :])
        self._window, self._read = self._read, len(self._ids)
        known, self._known = self._known, max(0, self._known - len(new))
        return new[known:]


class StopMatcher:
    """Lets text through until a stop string appears, wherever its tokens are cut.

    Args:
        stops: strings that end the answer; none of their text is let through.
        seen: the text before; a stop string may begin in it.
    """

    def __init__(self, stops: Sequence[str], seen: str = "") -> None:
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = seen[max(0, len(seen) - self._longest + 1) :] if self._longest > 1 else ""
        self._seen = len(self._held)  # characters of what is held that went out long ago
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
            return self._taken(min(found))
        return self._taken(len(self._held) - self._possible_start())

    def flush(self) -> str:
        """The text still held back, when nothing follows."""
        return self._taken(len(self._held))

    def _taken(self, count: int) -> str:
        """The first `count` characters held, without what went out long ago."""
        out, self._held = self._held[self._seen : count], self._held[count:]
        self._seen = max(0, self._seen - count)
        return out

    def _possible_start(self) -> int:
        """Length of the longest ending that begins a stop string."""
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            ending = self._held[-size:]
            if any(stop.startswith(ending) for stop in self._stops):
                return size
        return 0
