"""Log-probabilities of tokens, in OpenAI's shape, and in step with the text.

Source: https://platform.openai.com/docs/api-reference/chat/object (``choices[].logprobs``). They are
the model's own, before penalties, grammar, temperature and truncation, as OpenAI's and vLLM's are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Entry = dict[str, Any]


def logprob_entry(
    logits: NDArray[np.float32], token: int, top_logprobs: int, spell: Callable[[int], bytes]
) -> Entry:
    """One item of ``logprobs.content``.

    Args:
        logits: the model's, float32 ``(vocabulary,)``.
        token: the one that was chosen.
        top_logprobs: how many of the likeliest tokens to tell.
        spell: the bytes of a token.
    """
    most = float(logits.max())
    mass = most + math.log(np.exp(logits - most).sum(dtype=np.float64))
    tops = [] if top_logprobs == 0 else _likeliest(logits, top_logprobs)
    entry, *entries = [_entry(t, float(logits[t]) - mass, spell) for t in (token, *tops)]
    return {**entry, "top_logprobs": entries}


def _likeliest(logits: NDArray[np.float32], count: int) -> list[int]:
    place = max(0, logits.size - count)
    tops = np.flatnonzero(logits >= np.partition(logits, place)[place])
    likeliest: list[int] = tops[np.argsort(-logits[tops], kind="stable")][:count].tolist()
    return likeliest


def _entry(token: int, logprob: float, spell: Callable[[int], bytes]) -> Entry:
    raw = spell(token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


def content_of(entries: list[Entry]) -> dict[str, Any] | None:
    """A choice's ``logprobs``; None if there are no entries."""
    return {"content": entries, "refusal": None} if entries else None


class EntryQueue:
    """Gives each token's entry out with the end of its text, which may be held back for a while.

    A token whose text a stop string cuts off has no entry; one that is cut in two has.
    """

    def __init__(self) -> None:
        self._unspelled: list[Entry] = []  # of tokens that have given no text yet
        self._waiting: deque[tuple[int, int, Entry]] = deque()  # where the text begins and ends
        self._num_spelled = 0
        self._num_out = 0

    def push(self, entry: Entry) -> None:
        """A token was chosen."""
        self._unspelled.append(entry)

    def spelled(self, text: str) -> None:
        """The text that the tokens pushed so far have given, since the last time."""
        if text:
            start, self._num_spelled = self._num_spelled, self._num_spelled + len(text)
            self._waiting.extend((start, self._num_spelled, entry) for entry in self._unspelled)
            self._unspelled.clear()

    def released(self, text: str) -> list[Entry]:
        """The entries that go out with `text`."""
        self._num_out += len(text)
        out: list[Entry] = []
        while self._waiting and self._waiting[0][1] <= self._num_out:
            out.append(self._waiting.popleft()[2])
        return out

    def rest(self, *, is_cut: bool) -> list[Entry]:
        """The entries that go out at the end.

        Args:
            is_cut: whether a stop string cut the text.
        """
        if is_cut:
            return [entry for start, _, entry in self._waiting if start < self._num_out]
        return [*(entry for _, _, entry in self._waiting), *self._unspelled]
