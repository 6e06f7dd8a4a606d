"""From an alias that names a GGUF file to the file, and what its header says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import ModelIntegrityError, ModelNotDownloadedError
from hybrid_infer.snapshots.facts import SnapshotFacts
from hybrid_infer.snapshots.folders import hub_cache_dir
from hybrid_infer.snapshots.gguf_header import UNQUANTIZED, GgufHeader, gguf_header
from hybrid_infer.snapshots.resolve import revision_folder
from hybrid_infer.snapshots.sizes import Sizes, cache_values


def find_gguf(spec: ModelSpec, gguf: GgufFile) -> Path:
    """The file that is `spec`'s local copy.

    Raises:
        ModelNotDownloadedError: it is not on this machine; the message says what to do.
        ModelIntegrityError: it leads out of the Hub's cache.
    """
    if gguf.repo is None:
        path = Path(gguf.file)
        if not path.is_file():
            raise ModelNotDownloadedError(f"{spec.name}: there is no file {path}; put it there")
        return path
    folder = revision_folder(gguf.repo, gguf.revision)
    if folder is None or not (folder / gguf.file).is_file():
        raise ModelNotDownloadedError(
            f"{spec.name}: {gguf.name} is not in {hub_cache_dir()}; "
            f"run: hybrid-infer pull {spec.name}"
        )
    path = folder / gguf.file
    cache = os.path.realpath(hub_cache_dir())
    if os.path.commonpath([cache, os.path.realpath(path)]) != cache:
        raise ModelIntegrityError(f"{path} points outside {cache}")
    return path


def gguf_revision(gguf: GgufFile) -> str | None:
    """The commit of the file's repository, or None for a file that is simply on this machine."""
    folder = None if gguf.repo is None else revision_folder(gguf.repo, gguf.revision)
    return None if folder is None else folder.name


def gguf_facts(path: Path) -> SnapshotFacts:
    """What the header of `path` says, in the terms of a snapshot.

    Raises:
        ModelIntegrityError: it is no GGUF file, or is damaged.
    """
    header = gguf_header(path)
    sizes = header.type_bytes
    quantized = {kind: count for kind, count in sizes.items() if kind not in UNQUANTIZED}
    return SnapshotFacts(
        model_type=str(header.metadata.get("general.architecture", "")),
        modules=(),
        pooling=None,
        dense=False,
        has_normalize=False,
        max_seq_length=None,
        dim=None,
        prompt="",
        context_length=header.architecture_value("context_length"),
        weight_bytes=sum(sizes.values()),
        weight_dtype=_largest(sizes),
        quantization=_largest(quantized) if quantized else None,
        sizes=Sizes(cache_values=_cache_values(header)),
    )


def _largest(sizes: Mapping[str, int]) -> str:
    return max(sizes, key=lambda kind: sizes[kind])


def _cache_values(header: GgufHeader) -> int | None:
    return cache_values(
        header.architecture_value("block_count"),
        header.architecture_value("attention.head_count"),
        header.architecture_value("embedding_length"),
        header.architecture_value("attention.head_count_kv"),
        header.architecture_value("attention.key_length"),
    )
