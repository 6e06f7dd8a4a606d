"""One packed encoder per architecture family; anything else goes through its own modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.local.embedding.tokens import Tokens

if TYPE_CHECKING:
    from hybrid_infer.local.placement import Placement
    from hybrid_infer.snapshots.facts import SnapshotFacts


class Direct(Protocol):
    """Computes few tokens on the calling thread alone.

    It waits for nothing meanwhile, no lock, no other thread, no device, so it cannot hang.

    Attributes:
        most_tokens: how many.
    """

    most_tokens: int

    def __call__(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32] | None:
        """As `Encoder.encode`; None if a value is not finite."""
        ...


class Encoder(Protocol):
    """Turns token ids into vectors. Several threads may use it.

    Attributes:
        direct: computes few tokens on the calling thread; None if it has no such way.
    """

    direct: Direct | None

    def encode(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32]:
        """Float32 ``(sequences, dim)``.

        Args:
            sequences: token ids, special tokens included; fastest with the longest first.
            normalize: whether vectors are made one long, with or without a Normalize module in the
                snapshot; else the one that ends it is left out.
        """
        ...

    def num_places(self, *, tokens: int, count: int, longest: int) -> int:
        """How many tokens `encode` computes, padding included.

        Args:
            tokens: of all sequences.
            count: sequences.
            longest: tokens of the longest.
        """
        ...


def load_encoder(path: Path, facts: SnapshotFacts, placement: Placement) -> Encoder:
    """The fastest encoder that computes exactly what the snapshot describes.

    Raises:
        ModelIntegrityError: the weights are damaged or incomplete.
    """
    from hybrid_infer.local.embedding.encoders.families import PackedEncoder, find_family

    family = find_family(path, facts)
    if family is not None:
        return PackedEncoder(path, facts, placement, family)
    from hybrid_infer.local.embedding.encoders.generic import GenericEncoder

    return GenericEncoder(path, placement, facts.prompt)
