"""How an absurdly long text is cut before it costs anything, with no tokenizer at hand. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import NamedTuple
from unicodedata import category

NEVER_CUT_CHARACTERS = 2048
CHARACTERS_PER_TOKEN = 64

_CHUNK = 4096  # characters that are looked at together
_TAKEN_FOR_BLANKS = "\u2581\ufffd"  # by SentencePiece; BERT drops the latter
_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


class CutText(NamedTuple):
    """A text after `cut_long_text`, and whether a word or a part of one went."""

    text: str
    is_truncated: bool


def cut_long_text(text: str, max_seq_length: int) -> CutText:
    """`text` without what can never reach the model.

    A word makes at least one token, unless all its characters are of those that some tokenizers drop, so
    words past `max_seq_length` are beyond the window. What is between them, or within one, and longer
    than 64 characters a token of the window, fills it if all of it becomes tokens, for that is more than
    any vocabulary's longest piece. If not, it is nothing, or one unknown token, whatever its length:
    blanks and dropped characters between words, letters between marks (BERT's, that are too many). So
    such runs are shortened; a word of many runs ends once it has as many as the window has tokens.

    A plain cut at a number of characters would change results; this one does not, but where a tokenizer
    makes one unknown token of letters and marks together (SentencePiece's, of a script it does not know)
    in a word that is as long as that.

    Args:
        text: any text.
        max_seq_length: the model's window in tokens.
    """
    if len(text) <= NEVER_CUT_CHARACTERS:
        return CutText(text, is_truncated=False)
    return _Reader(text, max_seq_length).cut()


class _Patterns(NamedTuple):
    """Kinds of characters.

    Dropped within a word, or taken for a blank, are by one tokenizer or another: controls, joiners and
    other format characters, accents, variation selectors, private use, and what is no character at all.

    Attributes:
        blank: what separates words for every tokenizer.
        solid: anything else that is not dropped.
        run: some of it: marks, which are the group, or others.
        behind_marks: what ends a run of marks, which BERT makes a token each of.
        behind_others: what ends a run of anything else.
    """

    blank: re.Pattern[str]
    solid: re.Pattern[str]
    run: re.Pattern[str]
    behind_marks: re.Pattern[str]
    behind_others: re.Pattern[str]


@cache
def _patterns() -> _Patterns:
    blanks = _ranges(lambda char: char in "\t\n\r" or category(char)[0] == "Z")
    dropped = _ranges(
        lambda char: (
            category(char)[0] == "M"
            or category(char) in ("Cc", "Cf", "Cn", "Co")
            or char in _TAKEN_FOR_BLANKS
        )
    )
    dropped += "\U000e0000-\U0010ffff"
    marks = _ranges(lambda char: char in string.punctuation or category(char)[0] == "P")
    marks += _IDEOGRAPHS
    return _Patterns(
        blank=re.compile(f"[{blanks}]"),
        solid=re.compile(f"[^{blanks}{dropped}]"),
        run=re.compile(
            f"([{marks}]{{1,{_CHUNK}}})|[^{blanks}{dropped}{marks}]{{1,{_CHUNK}}}",
        ),
        behind_marks=re.compile(f"[^{marks}{dropped}]"),
        behind_others=re.compile(f"[{blanks}{marks}]"),
    )


def _ranges(is_one: Callable[[str], bool]) -> str:
    """The characters of the first plane that are, as a pattern's class lists them."""
    found = groupby(map(chr, range(0x10000)), is_one)
    runs = (list(run) for is_run, run in found if is_run)
    return "".join(f"\\u{ord(run[0]):04x}-\\u{ord(run[-1]):04x}" for run in runs)


class _Reader:
    """Reads a long text, and keeps what may reach a model; see `cut_long_text`."""

    def __init__(self, text: str, max_seq_length: int) -> None:
        self._text, self._window = text, max_seq_length
        # BERT's unknown words have more than a hundred characters, in most snapshots.
        self._most = max(NEVER_CUT_CHARACTERS, max_seq_length * CHARACTERS_PER_TOKEN)
        self._kept: list[str] = []
        self._end = 0  # of what has been read
        self._is_truncated = False
        self._words = 0
        # Of the word, and of the run within it, as far as they have been read.
        self._is_counted = False
        self._length = self._runs = self._run_length = 0
        self._is_of_marks: bool | None = None

    def cut(self) -> CutText:
        """The text, and whether a word or a part of one went."""
        while solid := self._next_run():
            gap = self._text[self._end : solid.start()]
            if _patterns().blank.search(gap):
                self._is_counted, self._is_of_marks = False, None
                self._length = self._runs = 0
            if not self._is_counted and _makes_a_token(solid[0]):
                if self._words == self._window:
                    return CutText("".join(self._kept), is_truncated=True)
                self._words, self._is_counted = self._words + 1, True
            self._kept.append(self._shortened(gap))
            self._read(solid)
        self._kept.append(self._shortened(self._text[self._end :]))
        return CutText("".join(self._kept), self._is_truncated)

    def _read(self, solid: re.Match[str]) -> None:
        is_of_marks = solid[1] is not None
        if is_of_marks is not self._is_of_marks:
            self._is_of_marks, self._run_length = is_of_marks, 0
            self._runs += 1
        self._kept.append(solid[0][: max(0, self._most - self._run_length)])
        size = len(solid[0])
        self._length, self._run_length = self._length + size, self._run_length + size
        self._end = solid.end()
        patterns = _patterns()
        if self._length > self._most and self._runs >= self._window:
            self._skip_to(patterns.blank)
        elif self._run_length > self._most:
            self._skip_to(patterns.behind_marks if is_of_marks else patterns.behind_others)

    def _skip_to(self, pattern: re.Pattern[str]) -> None:
        self._is_truncated = True
        found = pattern.search(self._text, self._end)
        self._end = len(self._text) if found is None else found.start()

    def _next_run(self) -> re.Match[str] | None:
        """The next characters that are not dropped; blanks are skipped faster than a pattern can."""
        start, solid = self._end, _patterns().solid
        while start < len(self._text):
            if not self._text[start : start + _CHUNK].isspace():
                found = solid.search(self._text, start, start + _CHUNK)
                if found:
                    return _patterns().run.match(self._text, found.start())
            start += _CHUNK
        return None

    def _shortened(self, gap: str) -> str:
        """As much of what is between two words; a blank in the rest still separates them.

        Of what the beginning does not have, nobody knows whether it is dropped, too: it stays.
        """
        if len(gap) <= self._most:
            return gap
        blank, kept, rest = _patterns().blank, gap[: self._most], gap[self._most :]
        if set(rest) <= set(kept):
            return kept + (" " if blank.search(rest) else "")
        # From the beginning of each run of blanks only, or many of them took time without end.
        one = blank.pattern
        return re.sub(f"(?<!{one})({one}{{{self._most}}}){one}+", r"\1 ", gap)


def _makes_a_token(solid: str) -> bool:
    """Whether it holds a letter, a number, a mark of punctuation or a symbol, which nothing drops."""
    first = solid[0]
    return first.isascii() or first.isalnum() or any(category(char)[0] in "LNPS" for char in solid)
