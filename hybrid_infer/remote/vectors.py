"""Embedding replies: shape, finiteness and norm, checked before anybody computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.remote.completions import malformed
from hybrid_infer.remote.responses import Asked

Vectors: TypeAlias = NDArray[np.float32]

_NUMBER_KINDS = "iuf"
_FLAT, _ROWS = 1, 2


@dataclass(frozen=True, slots=True)
class Piece:
    """The checked answer to one batch.

    Attributes:
        vectors: float32, shape ``(n, dim)``, C-contiguous.
        prompt_tokens: what the remote counted, if it did.
    """

    vectors: Vectors
    prompt_tokens: int | None = None


def joined(pieces: Sequence[Piece], asked: Asked) -> Piece:
    """One piece of many, in their order.

    Raises:
        RemoteProtocolError: their vectors differ in length.
    """
    if len(pieces) == 1:
        return pieces[0]
    if len({piece.vectors.shape[1] for piece in pieces}) > 1:
        raise malformed(asked, "its answers have vectors of several lengths")
    counts = [piece.prompt_tokens for piece in pieces]
    known = [count for count in counts if count is not None]
    return Piece(
        np.concatenate([piece.vectors for piece in pieces]),
        sum(known) if len(known) == len(counts) else None,
    )


def checked_vectors(
    rows: Any, request: EmbedRequest, norm_tolerance: float, asked: Asked
) -> Vectors:
    """The vectors of one reply.

    Args:
        rows: a list with one list or array of numbers per text, or, for a single text, one list
            of numbers.
        request: what was asked, with the texts of this reply only.
        norm_tolerance: how far a norm may be from 1 where normalised vectors were asked for.
        asked: for messages.

    Returns:
        float32, shape ``(n, dim)``, C-contiguous; of unit length where that was asked for.

    Raises:
        RemoteProtocolError: the wrong number or length of vectors, something else than finite
            numbers, a zero vector, or a norm that is not 1.
    """
    vectors = _as_array(rows, asked)
    num_texts = len(request.texts)
    if vectors.ndim == _FLAT and num_texts == 1 and vectors.size:
        vectors = vectors[np.newaxis]
    if vectors.ndim != _ROWS or len(vectors) != num_texts or vectors.shape[1] == 0:
        raise malformed(asked, f"expected {num_texts} vectors, got shape {vectors.shape}")
    dim = request.spec.dim
    if dim is not None and vectors.shape[1] != dim:
        raise malformed(asked, f"expected vectors of {dim} numbers, got {vectors.shape[1]}")
    return _of_valid_norm(vectors, request, norm_tolerance, asked)


def _as_array(rows: Any, asked: Asked) -> NDArray[Any]:
    array: NDArray[Any] | None
    try:
        array = np.array(rows) if isinstance(rows, list) else None
    except (ValueError, TypeError, OverflowError):
        array = None  # ragged, or deeper than numpy's limit
    if array is None or array.dtype.kind not in _NUMBER_KINDS:
        raise malformed(asked, "the answer is not a list of equally long lists of numbers")
    return array


def _of_valid_norm(
    wide: NDArray[Any], request: EmbedRequest, norm_tolerance: float, asked: Asked
) -> Vectors:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        vectors = np.ascontiguousarray(wide, dtype=np.float32)
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise malformed(asked, "a vector holds a number that is not finite")
    if not squares.all():
        raise malformed(asked, "a vector is zero")
    if not request.normalize:
        return vectors
    norms = np.sqrt(squares)
    if np.abs(norms - 1.0).max() > norm_tolerance:
        raise malformed(asked, "a vector that should have unit length has not")
    vectors /= norms.astype(np.float32)[:, np.newaxis]
    return vectors
