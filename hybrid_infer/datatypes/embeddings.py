"""Vectors, and the space they live in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Route


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """Everything that decides whether two vectors may be compared. Compare spaces with ``==``.

    Attributes:
        repo: the Hub repository id.
        revision: the pin of the plan (``"main"`` when unpinned), the same on every backend.
        pooling: ``"mean"``, ``"cls"``, …; None if unknown.
        dense: whether a Dense layer follows the pooling; None if unknown.
        normalize: whether vectors have unit length.
        prompt: text put before every input.
        max_seq_length: tokens per text; None if unknown.
        dim: length of a vector.
        quantisation: None for the original weights, else the scheme's name.
    """

    repo: str
    revision: str
    pooling: str | None
    dense: bool | None
    normalize: bool
    prompt: str
    max_seq_length: int | None
    dim: int
    quantisation: str | None = None

    @classmethod
    def of(
        cls, spec: ModelSpec, *, normalize: bool, dim: int, quantisation: str | None = None
    ) -> EmbeddingSpace:
        """The space of `spec`'s vectors."""
        return cls(
            repo=spec.repo,
            revision=spec.revision or "main",
            pooling=spec.pooling,
            dense=spec.dense,
            normalize=normalize,
            prompt=spec.prompt or "",
            max_seq_length=spec.max_seq_length,
            dim=dim,
            quantisation=quantisation,
        )


@dataclass(frozen=True, slots=True)
class EmbeddingUsage:
    """What a call cost.

    Attributes:
        prompt_tokens: tokens computed, special tokens included; None if the backend does not say.
        truncations: texts cut at the model's limit. A remote does not say: then those that were
            cut before sending, or None if there were none.
    """

    prompt_tokens: int | None
    truncations: int | None

    @property
    def total_tokens(self) -> int | None:
        """The same as `prompt_tokens`: embedding has no other tokens."""
        return self.prompt_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The result of ``embed``.

    Attributes:
        vectors: float32, shape ``(n, dim)``, C-contiguous, row i for text i.
        route: who served the call.
        usage: token counts and truncations.
        space: the space the vectors live in.
    """

    vectors: NDArray[np.float32]
    route: Route
    usage: EmbeddingUsage
    space: EmbeddingSpace

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.vectors)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.vectors[index]
        return row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vectors, dtype=dtype, copy=copy)
