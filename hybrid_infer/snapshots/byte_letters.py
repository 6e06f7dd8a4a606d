"""The letters in which byte-level BPE vocabularies write bytes."""

from __future__ import annotations


def byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte (openai/gpt-2, src/encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    spare = (chr(0x100 + offset) for offset in range(256))
    for byte in range(256):
        if byte not in letters:
            letters[byte] = next(spare)
    return letters
