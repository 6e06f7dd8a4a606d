"""How a vocabulary spells: the bytes behind each token.

A token may be a part of a character, so its bytes say more than its text.
"""

from __future__ import annotations

import re

from hybrid_infer.snapshots.byte_letters import byte_letters

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTE_OF = {letter: byte for byte, letter in byte_letters().items()}


def piece_bytes(piece: str, *, is_byte_level: bool) -> bytes:
    """The bytes that a piece of a vocabulary stands for.

    Args:
        piece: as the vocabulary writes it: ``Ġthe``, ``▁the``, ``<0xE2>``.
        is_byte_level: byte-level BPE, else SentencePiece's way.
    """
    if is_byte_level:
        if all(character in _BYTE_OF for character in piece):
            return bytes(_BYTE_OF[character] for character in piece)
        return piece.encode()  # a special token
    single = _BYTE.fullmatch(piece)
    return bytes([int(single[1], 16)]) if single else piece.replace("▁", " ").encode()
