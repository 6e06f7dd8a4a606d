"""Texts that two copies of one embedding model must agree on, chosen where copies go wrong.

Servers are known to lower-case or not, to drop accents, to cut at another length, or to read
special characters as something else, and still to answer plain English well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """One text and the word for it in reports."""

    label: str
    text: str


# Some 700 tokens that change their subject after 240, so that windows of 128, 256, 384 and 512 all
# see another text; of so few characters that no client cuts it before it is sent.
_OVER_LENGTH = "rain, " * 120 + "tax! " * 230

# Changing any text means writing the goldens anew: scripts/make_goldens.py.
PROBES: tuple[Probe, ...] = (
    Probe("plain", "The weather is lovely today."),
    Probe("accents", "Les élèves ont déjà mangé à la crêperie près de l'église Saint-Étienne."),
    Probe("upper case", "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG."),
    Probe("question", "How do I reset my password if I no longer have the phone?"),
    Probe("code", "def add(a: int, b: int) -> int:\n    return a + b  # 1_000 + 0x1F"),
    Probe("cjk", "今日は天気がとても良いので、公園を散歩しました。人工智能正在改变世界。"),
    Probe("emoji", "Great job 👏🏽🎉 see you soon 👩‍🚀🚀"),
    Probe("one token", "a"),
    Probe("whitespace only", " \t\n  "),
    Probe("outer whitespace", "\n\n  a sentence between blanks \t\n"),
    Probe("$&", "$& $1 \\ %s {0} <b>&amp;</b> <pad> [SEP] </s> <mask>"),
    Probe("right to left", "الطقس جميل اليوم שלום עולם"),
    Probe("one long word", "Donaudampfschifffahrtsgesellschaftskapitän" * 12),
    Probe("over-length", _OVER_LENGTH),
)

# Two that a swapped model, a lost normalisation of text or a permutation cannot both survive.
CANARY_PROBES: tuple[Probe, ...] = PROBES[:2]


def probes_digest() -> str:
    """SHA-256 of the texts in order, in hexadecimal: goldens of other texts are no goldens."""
    texts = [probe.text for probe in PROBES]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
