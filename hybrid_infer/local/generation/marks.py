"""Tokens that a text must not become: marks of roles and ends. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_LEFT, _RIGHT = "\ue000", "\ue001"  # around a stand-in's number; private to whoever uses them
_STAND_IN = re.compile(f"{_LEFT}([0-9]+){_RIGHT}")
# What llama.cpp takes for a mark where a vocabulary does not call it special, as DeepSeek's do.
_AROUND = (("<|", "|>"), ("<｜", "｜>"))  # noqa: RUF001 - these bars are meant


@dataclass(frozen=True, slots=True)
class Mark:
    """A special token.

    Attributes:
        name: how it is written.
        token: its number.
        takes_left: whether blanks before it belong to it.
        takes_right: whether blanks behind it do.
        is_known: whether the tokenizer can be told that its name is only text.
    """

    name: str
    token: int
    takes_left: bool = False
    takes_right: bool = False
    is_known: bool = True

    @property
    def pattern(self) -> str:
        """It, with its blanks; those before it are looked for where they begin, not at each of many."""
        before = r"(?:(?<!\s)\s+|)" if self.takes_left else ""
        behind = r"\s*" if self.takes_right else ""
        return f"{before}{re.escape(self.name)}{behind}"


def looks_special(name: str) -> bool:
    """Whether a token that is not called special is a mark all the same."""
    return any(name.startswith(start) and name.endswith(end) for start, end in _AROUND)


def marks_of(tokenizer: Any) -> list[Mark]:
    """The marks of one of transformers' tokenizers.

    Other tokens that were added to a vocabulary, such as ``<think>``, are text to its templates.
    """
    return [
        Mark(token.content, number, token.lstrip, token.rstrip, token.special)
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or looks_special(token.content)
    ]


class Marks:
    """Keeps what a user writes apart from what a template writes.

    Args:
        marks: of a vocabulary.
    """

    def __init__(self, marks: Collection[Mark]) -> None:
        longest_first = sorted(marks, key=lambda mark: len(mark.name), reverse=True)
        names = [re.escape(mark.name) for mark in longest_first]
        # A stand-in's own signs need one, too.
        self._hidden = re.compile("|".join([*names, _LEFT, _RIGHT]))
        self._written = re.compile(f"({'|'.join(mark.pattern for mark in longest_first)})")
        unknown = [re.escape(mark.name) for mark in longest_first if not mark.is_known]
        self._unknown = re.compile(f"(?={'|'.join(unknown)})") if unknown else None
        self._are_any = bool(names)

    def are_in(self, text: str) -> bool:
        """Whether a text must be kept apart."""
        return self._hidden.search(text) is not None

    def hidden(self, texts: Iterable[str]) -> tuple[list[str], list[str]]:
        """Texts with a stand-in for each mark in them, and what the stand-ins stand for."""
        originals: list[str] = []

        def hide(found: re.Match[str]) -> str:
            originals.append(found[0])
            return stand_in(len(originals) - 1)

        return [self._hidden.sub(hide, text) for text in texts], originals

    def parts(self, rendered: str, originals: Sequence[str]) -> list[tuple[str, bool]]:
        """What a template made of texts from `hidden`, cut at the marks that are its own.

        Returns:
            Texts in order, and whether marks in them are only text.
        """
        parts, written = [], ""
        for piece in self._written.split(rendered) if self._are_any else [rendered]:
            if _STAND_IN.search(piece) is None:
                written += piece
                continue
            parts += [(written, False), (_shown(piece, originals), True)]
            written = ""
        return [(text, is_plain) for text, is_plain in [*parts, (written, False)] if text]

    def cut(self, text: str) -> list[str]:
        """A text in pieces in which no tokenizer finds a mark that it cannot be told is text."""
        if self._unknown is None:
            return [text]
        cuts = [found.start() + 1 for found in self._unknown.finditer(text)]
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def stand_in(number: int) -> str:
    """What stands for a text, or for a part of one, while a template is rendered."""
    return f"{_LEFT}{number}{_RIGHT}"


def _shown(text: str, originals: Sequence[str]) -> str:
    return _STAND_IN.sub(lambda found: originals[int(found[1])], text)
