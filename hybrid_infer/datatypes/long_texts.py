"""How an absurdly long text is cut before it costs anything, with no tokenizer at hand. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import NamedTuple
from unicodedata import category

NEVER_CUT_CHARACTERS = 2048
CHARACTERS_PER_TOKEN = 64

_CHUNK = 4096  # characters that are looked at together
_MARKS_OF_BLANKS = "\u2581\ufffd"  # SentencePiece takes them for a blank, or BERT drops them


class CutText(NamedTuple):
    """A text after `cut_long_text`, and whether a word or a part of one went."""

    text: str
    is_truncated: bool


def cut_long_text(text: str, max_seq_length: int) -> CutText:
    """`text` without what can never reach the model.

    A word makes at least one token, unless all its characters are of those that some tokenizers drop, so
    words past `max_seq_length` are beyond the window. Nor do they share a token. Within a word, 64
    characters a token is more than any vocabulary's longest piece; dropped ones do not count. (A word
    longer than that which a tokenizer makes one unknown token of ends there nevertheless.) Between
    words, a run of as many blanks and dropped characters fills the window if the tokenizer makes tokens
    of them, as those over bytes do; if it makes none, it is all the same how many there are. A plain cut
    at a number of characters would change results; this one does not.

    Args:
        text: any text.
        max_seq_length: the model's window in tokens.
    """
    if len(text) <= NEVER_CUT_CHARACTERS:
        return CutText(text, is_truncated=False)
    blanks, solids = _patterns()
    most = max_seq_length * CHARACTERS_PER_TOKEN
    pieces: list[str] = []
    end = words = length = 0  # the last is the word's, as far as it has been read
    is_counted = is_truncated = False
    while solid := _next_solid(solids, text, end):
        start, stop = solid.span()
        gap = text[end:start]
        if blanks.search(gap):
            length, is_counted = 0, False
        if not is_counted and _makes_a_token(solid[0]):
            if words == max_seq_length:
                return CutText("".join(pieces), is_truncated=True)
            words, is_counted = words + 1, True
        pieces += (_shortened(gap, most), text[start : min(stop, start + most - length)])
        length, end = length + stop - start, stop
        if length > most:
            is_truncated = True
            blank = blanks.search(text, stop)
            end = len(text) if blank is None else blank.start()
    return CutText("".join(pieces) + _shortened(text[end:], most), is_truncated)


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A blank, which separates words for every tokenizer; and some of what none of them drops.

    Dropped within a word, or taken for a blank, are by one or another: controls, joiners and other
    format characters, accents, variation selectors, private use, and what is no character at all.
    """
    blanks = _ranges(lambda char: char in "\t\n\r" or category(char)[0] == "Z")
    dropped = _ranges(
        lambda char: category(char) in ("Cc", "Cf", "Cn", "Co", "Mn") or char in _MARKS_OF_BLANKS
    )
    return (
        re.compile(f"[{blanks}]"),
        re.compile(f"[^{blanks}{dropped}\U000e0000-\U0010ffff]{{1,{_CHUNK}}}"),
    )


def _ranges(is_one: Callable[[str], bool]) -> str:
    """The characters of the first plane that are, as a pattern's class lists them."""
    found = groupby(map(chr, range(0x10000)), is_one)
    runs = (list(run) for is_run, run in found if is_run)
    return "".join(f"\\u{ord(run[0]):04x}-\\u{ord(run[-1]):04x}" for run in runs)


def _next_solid(solids: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    """The next of them; blanks are skipped faster than a pattern can."""
    while start < len(text):
        chunk = text[start : start + _CHUNK]
        if not chunk.isspace():
            found = solids.search(text, start, start + _CHUNK)
            if found:
                return found
        start += _CHUNK
    return None


def _makes_a_token(solid: str) -> bool:
    """Whether it holds a letter, a number, a mark of punctuation or a symbol, which nothing drops."""
    first = solid[0]
    return first.isascii() or first.isalnum() or any(category(char)[0] in "LNPS" for char in solid)


def _shortened(gap: str, most: int) -> str:
    """As much of what is between two words; a blank in the rest still separates them."""
    if len(gap) <= most:
        return gap
    blanks, _ = _patterns()
    return gap[:most] + (" " if blanks.search(gap, most) else "")
