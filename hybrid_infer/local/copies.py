"""Where the local copy of a model is, and what it says of itself: a snapshot, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.local.generation.gguf.library import check_installed
from hybrid_infer.snapshots.facts import SnapshotFacts, check_assertions, snapshot_facts
from hybrid_infer.snapshots.gguf_files import find_gguf, gguf_facts
from hybrid_infer.snapshots.resolve import find_snapshot


def find_copy(spec: ModelSpec) -> tuple[Path, SnapshotFacts]:
    """The folder of the snapshot, or the GGUF file, that serves `spec` here.

    Raises:
        ModelNotDownloadedError: it is not on this machine.
        ModelIntegrityError: it is damaged, or disagrees with models.yaml.
        ConfigError: it may not serve (quantised, and not allowed), or what computes it is missing.
    """
    if spec.gguf is None:
        path = find_snapshot(spec)
        facts = snapshot_facts(path)
    else:
        path = find_gguf(spec, spec.gguf)
        facts = gguf_facts(path)
        check_installed(spec.name)
    check_assertions(spec, facts)
    return path, facts
