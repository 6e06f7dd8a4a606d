"""What a text may be, and how an absurdly long one is cut before it costs anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hybrid_infer.errors import InvalidRequestError

MAX_BLANK_RUN = 1024
NEVER_CUT_CHARACTERS = 2 * MAX_BLANK_RUN
CHARACTERS_PER_TOKEN = 64

_WORD = re.compile(r"\S+")


def is_plain(value: Any) -> bool:
    """Whether it is a text of ASCII, as most are: that is known without a look at it, and always right."""
    return type(value) is str and value.isascii()


def checked_text(value: Any, argument: str) -> str:
    """`value`, if it is a text that can be sent and tokenised.

    Raises:
        InvalidRequestError: not a ``str``, or it holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(
            f"{argument} must be a str, not {type(value).__name__}", argument=argument
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{argument} holds a lone surrogate at character {error.start}; it is not valid Unicode",
            argument=argument,
        ) from None
    return value


def checked_texts(texts: Any, argument: str = "texts") -> tuple[str, ...]:
    """One string or a sequence of strings, as a tuple.

    Raises:
        InvalidRequestError: anything else, naming the index.
    """
    if isinstance(texts, str):
        return (checked_text(texts, argument),)
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Sequence):
        to_list = getattr(texts, "tolist", None)  # a numpy or pandas column of strings
        if to_list is None:
            raise InvalidRequestError(
                f"{argument} must be a str or a sequence of str, not {type(texts).__name__}",
                argument=argument,
            )
        found = to_list()
        texts = found if isinstance(found, list) else [found]
    listed = tuple(texts)
    for index, text in enumerate(listed):
        if not is_plain(text):
            checked_text(text, f"{argument}[{index}]")
    return listed


class CutText(NamedTuple):
    """A text after `cut_long_text`, and whether more than blanks went."""

    text: str
    is_truncated: bool


def cut_long_text(text: str, max_seq_length: int) -> CutText:
    """`text` without what can never reach the model.

    A word makes at least one token, so words past `max_seq_length` are beyond the window; within
    a word, 64 characters a token is more than any vocabulary's longest piece. Blank runs over
    1,024 characters are collapsed: they make no token of their own and only cost time. A plain
    cut at a number of characters would change results; this one does not.

    Args:
        text: any text.
        max_seq_length: the model's window in tokens.
    """
    if len(text) <= NEVER_CUT_CHARACTERS:
        return CutText(text, is_truncated=False)
    most_characters = max_seq_length * CHARACTERS_PER_TOKEN
    end, is_truncated = 0, False
    pieces: list[str] = []
    for count, word in enumerate(_WORD.finditer(text)):
        if count == max_seq_length:
            return CutText("".join(pieces), is_truncated=True)
        stop = min(word.end(), word.start() + most_characters)
        pieces += (_shortened(text[end : word.start()]), text[word.start() : stop])
        is_truncated = is_truncated or stop < word.end()
        end = word.end()
    return CutText("".join(pieces) + _shortened(text[end:]), is_truncated)


def _shortened(blanks: str) -> str:
    return blanks if len(blanks) <= MAX_BLANK_RUN else " "
