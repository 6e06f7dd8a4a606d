"""Write the goldens: the probes' vectors from plain sentence-transformers, in float32, on the CPU.

    python scripts/make_goldens.py embeddings/small=DIR embeddings/default=DIR

Each DIR is an ordinary sentence-transformers folder of the revision that models.yaml pins;
`scripts/fetch_weights.py` prints where the tests keep theirs. Run it again after any change of
the probes (`hybrid_infer/snapshots/probes.py`) or of a pin.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))  # the checkout, installed or not

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.facts import check_assertions, snapshot_facts
from hybrid_infer.snapshots.goldens import FOLDER, Goldens, encode_goldens, golden_file
from hybrid_infer.snapshots.probes import PROBES


def golden_vectors(folder: Path) -> NDArray[np.float32]:
    """Vectors of every probe, one text at a time, so that padding plays no part."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)  # sums in one order, whatever the machine
    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=False
    ).float()
    vectors = model.encode(
        [probe.text for probe in PROBES],
        batch_size=1,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def write(spec: ModelSpec, folder: Path, target: Path) -> Path:
    """The file that was written."""
    if spec.revision is None or spec.task != "embeddings":
        sys.exit(f"{spec.name} is not a pinned embedding model")
    check_assertions(spec, snapshot_facts(folder))
    path = golden_file(spec.repo, spec.revision, target)
    goldens = Goldens(spec.repo, spec.revision, golden_vectors(folder))
    path.write_bytes(encode_goldens(goldens))
    return path


def main() -> None:
    """Write one file for each NAME=DIR."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--target", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    registry = load_registry()
    for pair in arguments.models:
        name, _, folder = pair.partition("=")
        path = write(registry.resolve_named(name), Path(folder), arguments.target)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
