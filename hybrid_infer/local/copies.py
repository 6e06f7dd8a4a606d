"""Where the local copy of a model is, and what it says of itself: a snapshot, or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.local.generation.gguf.library import check_installed
from hybrid_infer.snapshots.facts import SnapshotFacts, check_assertions, snapshot_facts
from hybrid_infer.snapshots.gguf_files import find_gguf, gguf_facts, gguf_revision
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.verification import check_gguf, check_snapshot


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """The state of one local copy.

    Attributes:
        state: ``warm``, ``loading``, ``cold`` or ``absent``.
        detail: why it is absent, or why its last load failed; or empty.
        stage: how far its load is: ``downloading``, ``placing`` or ``loading``.
        seconds_left: until it can start on a request, as far as that can be told.
        bytes: memory that it may take, cache and overhead included.
        device: where it computes; several are joined by ``+``.
        dtype: in which dtype.
        quantization: how its weights were made smaller; None: they were not.
        idle_seconds: for how long no call has come.
        is_busy: whether anybody waits for what it computes.
        computed_seconds: how long ago it last computed anything.
    """

    state: str
    detail: str = ""
    stage: str | None = None
    seconds_left: float | None = None
    bytes: int | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    idle_seconds: float | None = None
    is_busy: bool = False
    computed_seconds: float | None = None


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


def check_copy(spec: ModelSpec, path: Path, *, strict: bool) -> None:
    """Compare the copy at `path` with models.lock: each of its files is read, once a process.

    Args:
        spec: whose copy it is.
        path: where `find_copy` found it.
        strict: whether a copy that is not pinned, or not listed, is refused.

    Raises:
        ModelIntegrityError: it differs, or `strict` refuses it.
    """
    if spec.gguf is None:
        check_snapshot(spec, path, strict=strict)
    else:
        check_gguf(spec, spec.gguf, path, gguf_revision(spec.gguf), strict=strict)
