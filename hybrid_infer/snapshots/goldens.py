"""Goldens: the probes' vectors as plain sentence-transformers computes them in float32.

They come with this package, so that a copy can be judged where there is no other one.
`scripts/make_goldens.py` writes them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.probes import PROBES, probes_digest

FOLDER = Path(__file__).parent / "golden_vectors"
TENSOR = "vectors"
DESCRIPTION = "goldens"


@dataclass(frozen=True, slots=True, eq=False)
class Goldens:
    """The probes' vectors of one model at one commit.

    Attributes:
        repo: the Hub repository id.
        revision: the commit, 40 hex digits.
        vectors: float32 ``(len(PROBES), dim)``, row i for probe i, of unit length.
    """

    repo: str
    revision: str
    vectors: NDArray[np.float32]


def golden_file(repo: str, revision: str, folder: Path = FOLDER) -> Path:
    """Where the goldens of a model are kept, if there are any."""
    return folder / f"{repo.replace('/', '--')}--{revision[:12]}.safetensors"


@functools.lru_cache(maxsize=256)  # Hub ids come from callers
def has_goldens(spec: ModelSpec) -> bool:
    """Whether this package has goldens of exactly this model at this commit."""
    if spec.task != "embeddings" or spec.revision is None or spec.prompt:
        return False  # they were made without a prompt
    return golden_file(spec.repo, spec.revision).is_file()


def load_goldens(spec: ModelSpec) -> Goldens | None:
    """The goldens of exactly this model at this commit, or None.

    Raises:
        ModelIntegrityError: the file is damaged, or was written for another model or other probes.
    """
    if not has_goldens(spec) or spec.revision is None:
        return None
    return read_goldens(golden_file(spec.repo, spec.revision), spec.repo, spec.revision)


def description_of(repo: str, revision: str) -> dict[str, Any]:
    """What a file of goldens says about itself, as JSON under one key of its metadata."""
    return {
        "repo": repo,
        "revision": revision,
        "normalize": True,
        "dtype": "float32",
        "probes_sha256": probes_digest(),
    }


def encode_goldens(goldens: Goldens) -> bytes:
    """The bytes of a file; the same for the same goldens."""
    from safetensors.numpy import save

    # One key, because the order of several is not stable in the format's writer.
    said = json.dumps(description_of(goldens.repo, goldens.revision))
    return save({TENSOR: goldens.vectors}, {DESCRIPTION: said})


def read_goldens(path: Path, repo: str, revision: str) -> Goldens:
    """One file of goldens.

    Raises:
        ModelIntegrityError: it is damaged, or was written for another model or other probes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            said = json.loads((file.metadata() or {}).get(DESCRIPTION, "{}"))
            vectors = file.get_tensor(TENSOR)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelIntegrityError(f"{path.name} cannot be read: {error}") from None
    for name, wanted in description_of(repo, revision).items():
        if said.get(name) != wanted:
            raise ModelIntegrityError(
                f"{path.name} has {name} {said.get(name)!r} and should have {wanted!r}"
            )
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(PROBES):  # noqa: PLR2004 - rows and columns
        raise ModelIntegrityError(f"{path.name} has {vectors.dtype} of shape {vectors.shape}")
    return Goldens(repo, revision, vectors)
