"""WordPiece over ASCII texts, on any processor: ``wordpiece.c``."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).with_name("_wordpiece.so")
NUM_BYTES = 128
MAX_CHARACTERS = 254  # of a word, one less than the C code's
LETTER, DROPPED, BLANK, PUNCTUATION, OPENING = range(5)
WHOLE, CUT, REFUSED = range(3)
UNLIMITED = 2**62


@cache
def library() -> ctypes.CDLL | None:
    """The compiled tokenizer; None if it was not built, or for another system."""
    try:
        return ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a tokenizer does with ASCII.

    Attributes:
        vocabulary: piece to id; those that are not ASCII are never found.
        continuing_prefix: of pieces that continue a word.
        unknown: the id of a word that the vocabulary cannot spell.
        max_word_characters: longer words are unknown; at most `MAX_CHARACTERS`.
        kinds: what each of the 128 bytes is.
        plain: what each of them is normalised to.
        added: the added tokens, normalised, each beginning with an ``OPENING`` byte.
        before: ids put before each text.
        after: ids put after each text.
        max_tokens: what a text is cut to, `before` and `after` not counted.
    """

    vocabulary: Mapping[str, int]
    continuing_prefix: str
    unknown: int
    max_word_characters: int
    kinds: bytes
    plain: bytes
    added: Sequence[bytes]
    before: Sequence[int]
    after: Sequence[int]
    max_tokens: int = UNLIMITED


class _WordPiece(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("nodes", "kinds", "plain", "added", "before", "after")),
        *((name, c_int64) for name in ("num_before", "num_after")),
        *((name, c_int64) for name in ("most_tokens", "most_characters")),
        *((name, c_int32) for name in ("continuing", "unknown")),
    )


class WordPiece:
    """A tokenizer of ASCII texts. Never changed once made: threads share it.

    Args:
        compiled: the library.
        rules: what it is to do.
    """

    def __init__(self, compiled: ctypes.CDLL, rules: Rules) -> None:
        self._encode = compiled.wordpiece_encode
        self._encode.argtypes = (POINTER(_WordPiece), c_char_p, c_int64, c_void_p, POINTER(c_int32))
        self._encode.restype = None
        self._max_tokens = rules.max_tokens
        self._num_around = len(rules.before) + len(rules.after)
        nodes = _trie(compiled, rules)
        added = b"".join(bytes([len(token)]) + token for token in rules.added) + b"\0"
        tables = [np.frombuffer(table, np.uint8) for table in (rules.kinds, rules.plain, added)]
        around = [np.array([*ids, 0], np.int32) for ids in (rules.before, rules.after)]
        self._kept: list[NDArray[Any]] = [
            nodes,
            *tables,
            *around,
        ]  # the structure holds addresses only
        self._structure = _WordPiece(
            *(array.ctypes.data for array in self._kept),
            len(rules.before),
            len(rules.after),
            rules.max_tokens,
            rules.max_word_characters,
            _find(compiled, nodes, rules.continuing_prefix.encode()),
            rules.unknown,
        )
        self._reference = byref(self._structure)

    def __call__(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int32]], list[int]]:
        """Tokenise `texts`, without the interpreter's lock.

        Returns:
            Each text's ids, which lie in one array, and whether it is ``WHOLE``, was ``CUT``, or is
            ``REFUSED`` because an added token is in it.

        Raises:
            UnicodeEncodeError: one of them is not ASCII.
        """
        data, num_texts = "".join(texts).encode("ascii"), len(texts)
        room = min(len(data), num_texts * self._max_tokens) + num_texts * self._num_around
        ids = np.empty(room + 1, np.int32)  # an empty one would have no address
        numbers = array("q", map(len, texts)) * 3  # the lengths, and room for ends and states
        self._encode(
            self._reference,
            data,
            num_texts,
            numbers.buffer_info()[0],
            c_int32.from_buffer(ids.data),
        )
        bounds = [0, *numbers[num_texts : 2 * num_texts]]
        return (
            [ids[start:end] for start, end in pairwise(bounds)],
            numbers[2 * num_texts :].tolist(),
        )


def _trie(compiled: ctypes.CDLL, rules: Rules) -> NDArray[np.int32]:
    """The vocabulary as the C code's nodes."""
    longest = rules.max_word_characters + len(rules.continuing_prefix)
    pieces = sorted(p for p in rules.vocabulary if p.isascii() and len(p) <= longest)
    keys = "".join(pieces).encode()
    starts = np.array(list(accumulate(map(len, pieces), initial=0)), np.int64)
    ids = np.array([rules.vocabulary[piece] for piece in pieces], np.int32)
    build = compiled.wordpiece_build
    build.argtypes = (c_char_p, *(c_void_p,) * 2, c_int64, c_void_p, c_int64)
    build.restype = c_int
    num_nodes = len(keys) + 2 * NUM_BYTES
    while True:
        nodes = np.empty((num_nodes, 3), np.int32)
        arrays = (starts.ctypes.data, ids.ctypes.data, len(pieces), nodes.ctypes.data)
        if build(keys, *arrays, num_nodes):
            break
        num_nodes *= 2
    last = int(np.flatnonzero(nodes[:, 1] != -1)[-1])
    return nodes[: last + 1 + NUM_BYTES].copy()


def _find(compiled: ctypes.CDLL, nodes: NDArray[np.int32], key: bytes) -> int:
    find = compiled.wordpiece_find
    find.argtypes = (c_void_p, c_char_p, c_int64)
    find.restype = c_int32
    return int(find(nodes.ctypes.data, key, len(key)))
