"""What a text may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_infer.errors import InvalidRequestError


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
