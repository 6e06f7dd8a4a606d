"""Going on in the middle of an answer: token healing at the seam.

A text that breaks off need not end where a token would have ended in the whole text. So its last
token is taken back, and the first tokens that are generated must spell that token's piece again,
or a longer one that begins with it. Where the break is a true token border, the likeliest token is
the one that was taken back, and nothing changes.

Pieces are the vocabulary's own spelling (``Ġthe``, ``▁the``), in which joined tokens are joined
strings, for byte-level BPE and SentencePiece alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_infer.local.generation.prompting import Prompter


@dataclass(frozen=True, slots=True)
class Seam:
    """Where an answer goes on.

    Attributes:
        prompt: tokens of the conversation.
        kept: tokens of the text so far, without the one that is spelled again.
        num_tokens: tokens of the text so far, that one included.
        piece: the spelling that the next tokens must begin with.
    """

    prompt: list[int]
    kept: list[int]
    num_tokens: int
    piece: str


def seam(prompter: Prompter, prompt: list[int], text: str) -> Seam:
    """The seam after `text`, an answer to `prompt` that broke off."""
    ids = prompter.encode_answer(prompt, text) if text else []
    if not ids:
        return Seam(prompt, [], 0, "")
    return Seam(prompt, ids[:-1], len(ids), prompter.pieces[ids[-1]])


class Healer:
    """Lets only those tokens through that spell what was taken back.

    Args:
        pieces: the spelling of every token.
        special: tokens that are no text.
        piece: what must be spelled first.
    """

    def __init__(self, pieces: Sequence[str], special: frozenset[int], piece: str) -> None:
        self._pieces = pieces
        self._special = special
        self._left = piece

    def adjusted(self, logits: Tensor) -> Tensor:
        """`logits`, ``(vocabulary,)``, with every token but the fitting ones ruled out."""
        if not self._left:
            return logits
        fitting = [
            token
            for token, piece in enumerate(self._pieces[: logits.numel()])
            if piece
            and token not in self._special
            and (piece.startswith(self._left) or self._left.startswith(piece))
        ]
        allowed = torch.full_like(logits, -torch.inf)
        index = torch.tensor(fitting, device=logits.device)
        allowed[index] = logits[index]
        return allowed

    def push(self, token: int) -> None:
        """`token` has been chosen."""
        if not self._left:
            return  # the token may be one that the vocabulary has no piece for
        piece = self._pieces[token]
        self._left = "" if piece.startswith(self._left) else self._left[len(piece) :]
