"""WordPiece on any processor: ``wordpiece.c``."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from operator import sub
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.local.native import is_stale

LIBRARY = Path(__file__).with_name("_wordpiece.so")
NUM_BYTES = 256
MAX_CHARACTERS = 254  # of a word
MAX_PREFIX_CHARACTERS = 16  # "##" as a rule; the trie is built as deep as its longest key
CHARACTER_BYTES = 5  # of what a character is normalised to
CHARACTER_SIZE = 3 + CHARACTER_BYTES  # of a character in the table
FOREIGN, LETTER, DROPPED, BLANK, ALONE, OPENING = range(6)
WHOLE, CUT, REFUSED = range(3)
UNLIMITED = 2**62
BRIEF_BYTES = 2_048  # some twenty microseconds; other threads may keep the lock for milliseconds


@cache
def library() -> ctypes.CDLL | None:
    """The compiled tokenizer; None if it was not built, or from other sources, or for another system."""
    try:
        compiled = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    return None if is_stale(compiled, ("wordpiece.c",)) else compiled


class Character(NamedTuple):
    """What the tokenizer makes of a character, wherever it stands.

    Attributes:
        kind: `LETTER` of a word, `DROPPED`, `BLANK` between words, or a word `ALONE`; `OPENING` is
            one with which an added token may begin.
        normalized: at most `CHARACTER_BYTES`, and no more characters than the UTF-8 of the original
            has bytes.
    """

    kind: int
    normalized: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What a tokenizer does.

    Attributes:
        vocabulary: piece to id.
        continuing_prefix: of pieces that continue a word.
        unknown: the id of a word that the vocabulary cannot spell.
        max_word_characters: longer words are unknown; at most `MAX_CHARACTERS`.
        characters: by code point; texts with any other are refused.
        added: the added tokens, normalised, each beginning with an ``OPENING`` character.
        before: ids put before each text.
        after: ids put after each text.
        max_tokens: what a text is cut to, `before` and `after` not counted.
    """

    vocabulary: Mapping[str, int]
    continuing_prefix: str
    unknown: int
    max_word_characters: int
    characters: Mapping[int, Character]
    added: Sequence[bytes]
    before: Sequence[int]
    after: Sequence[int]
    max_tokens: int = UNLIMITED


class _WordPiece(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("nodes", "characters", "added", "before", "after")),
        *((name, c_int64) for name in ("num_characters", "num_before", "num_after")),
        *((name, c_int64) for name in ("most_tokens", "most_characters")),
        *((name, c_int32) for name in ("continuing", "unknown")),
    )


class WordPiece:
    """A tokenizer. Never changed once made: threads share it.

    Args:
        compiled: the library.
        rules: what it is to do.
    """

    def __init__(self, compiled: ctypes.CDLL, rules: Rules) -> None:
        self._encode = _encoder(compiled)
        self._encode_briefly = _encoder(ctypes.PyDLL(str(LIBRARY)))
        self._max_tokens = rules.max_tokens
        self._num_around = len(rules.before) + len(rules.after)
        nodes = _trie(compiled, rules)
        added = b"".join(bytes([len(token)]) + token for token in rules.added) + b"\0"
        characters = _table(rules.characters)
        tables = [np.frombuffer(table, np.uint8) for table in (characters, added)]
        around = [np.array([*ids, 0], np.int32) for ids in (rules.before, rules.after)]
        # The structure holds addresses only.
        self._kept: list[NDArray[Any]] = [nodes, *tables, *around]
        self._structure = _WordPiece(
            *(array.ctypes.data for array in self._kept),
            len(characters) // CHARACTER_SIZE,
            len(rules.before),
            len(rules.after),
            rules.max_tokens,
            rules.max_word_characters,
            _find(compiled, nodes, rules.continuing_prefix.encode()),
            rules.unknown,
        )
        self._reference = byref(self._structure)

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], list[int], list[int]]:
        """Tokenise `texts`, without the interpreter's lock if it takes longer than to get that back.

        Returns:
            The ids of all texts, end to end; how many each has; and whether it is ``WHOLE``, was
            ``CUT``, or is ``REFUSED`` because an added token is in it, or a character that is not in
            the table.

        Raises:
            UnicodeEncodeError: one of them holds a lone surrogate.
        """
        whole, num_texts = "".join(texts), len(texts)
        if whole.isascii():
            data, sizes = whole.encode(), map(len, texts)
        else:
            parts = [text.encode() for text in texts]
            data, sizes = b"".join(parts), map(len, parts)
        room = min(len(data), num_texts * self._max_tokens) + num_texts * self._num_around
        ids = np.empty(room + 1, np.int32)  # an empty one would have no address
        numbers = array("q", sizes) * 3  # the lengths, and room for ends and states
        address, _ = numbers.buffer_info()
        encode = self._encode_briefly if len(data) <= BRIEF_BYTES else self._encode
        encode(self._reference, data, num_texts, address, c_int32.from_buffer(ids.data))
        ends = numbers[num_texts : 2 * num_texts].tolist()
        lengths = list(map(sub, ends, [0, *ends[:-1]]))
        return ids[: sum(lengths)], lengths, numbers[2 * num_texts :].tolist()


def _encoder(compiled: ctypes.CDLL) -> Any:
    encode = compiled.wordpiece_encode
    encode.argtypes = (POINTER(_WordPiece), c_char_p, c_int64, c_void_p, POINTER(c_int32))
    encode.restype = None
    return encode


def _table(characters: Mapping[int, Character]) -> bytearray:
    """The characters as the C code's array of structures; those that are left out are ``FOREIGN``."""
    table = bytearray(CHARACTER_SIZE * (max(characters) + 1))
    for code, (kind, normalized) in characters.items():
        encoded = normalized.encode()
        start = CHARACTER_SIZE * code
        entry = bytes((kind, len(normalized), len(encoded))) + encoded
        table[start : start + len(entry)] = entry
    return table


def _trie(compiled: ctypes.CDLL, rules: Rules) -> NDArray[np.int32]:
    """The vocabulary as the C code's nodes."""
    longest = rules.max_word_characters + len(rules.continuing_prefix)
    encoded = {
        piece.encode(): number
        for piece, number in rules.vocabulary.items()
        if len(piece) <= longest
    }
    pieces = sorted(encoded)
    keys = b"".join(pieces)
    starts = np.array(list(accumulate(map(len, pieces), initial=0)), np.int64)
    ids = np.array([encoded[piece] for piece in pieces], np.int32)
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
