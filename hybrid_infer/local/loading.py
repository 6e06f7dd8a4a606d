"""From a spec to a loaded engine: find the files, check them, place them, load them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.local.copies import find_copy
from hybrid_infer.local.hardware import hardware
from hybrid_infer.local.placement import Placement, place
from hybrid_infer.local.translation import loading_errors
from hybrid_infer.settings import Settings
from hybrid_infer.snapshots.facts import SnapshotFacts, read_json
from hybrid_infer.snapshots.gguf_files import gguf_revision
from hybrid_infer.snapshots.resolve import observed_revision

if TYPE_CHECKING:
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.generation.engine import ChatEngine

logger = logging.getLogger("hybrid_infer")


def load_engine(
    spec: ModelSpec, *, device: str, dtype: str, settings: Settings
) -> EmbeddingEngine | ChatEngine:
    """Load a model.

    Raises:
        ModelNotDownloadedError: it is not on this machine.
        ModelIntegrityError: its files are damaged or disagree with models.yaml.
        InsufficientMemoryError: it does not fit.
        ConfigError: the device is not here, or the dtype is forbidden for this model.
    """
    path, facts = find_copy(spec)
    placement = placed(spec, facts, device=device, dtype=dtype, settings=settings)
    if spec.gguf is not None:
        with loading_errors(spec.gguf.name):
            return _gguf_engine(path, facts, spec, spec.gguf, placement, settings)
    provenance = Provenance(spec.repo, observed_revision(path), True, placement.dtype)
    with loading_errors(spec.repo):
        if spec.task == "chat":
            return _chat_engine(path, facts, placement, provenance, spec)
        return _embedding_engine(path, facts, placement, provenance, settings)


def placed(
    spec: ModelSpec, facts: SnapshotFacts, *, device: str, dtype: str, settings: Settings
) -> Placement:
    """Where `spec` would be loaded on this machine.

    Raises:
        InsufficientMemoryError: it does not fit.
        ConfigError: the device is not here, or the dtype is forbidden for this model.
    """
    fraction = settings.memory.local_fraction
    if spec.gguf is None:
        return place(spec, facts, hardware(device), dtype=dtype, fraction=fraction)
    from hybrid_infer.local.generation.gguf.loading import gguf_device, place_gguf

    return place_gguf(spec, facts, hardware(gguf_device(device)), fraction=fraction)


def _embedding_engine(
    path: Path,
    facts: SnapshotFacts,
    placement: Placement,
    provenance: Provenance,
    settings: Settings,
) -> EmbeddingEngine:
    from hybrid_infer.local.embedding.encoders import load_encoder
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.embedding.lanes import lane_threads
    from hybrid_infer.local.embedding.tokenizing import TextTokenizer

    tokenizer = TextTokenizer(path, facts.max_seq_length, facts.prompt)
    encoder = load_encoder(path, facts, placement)
    return EmbeddingEngine(
        encoder,
        tokenizer,
        provenance,
        settings.embedding.token_budget,
        lane_threads=lane_threads(placement.device),
    )


def _chat_engine(
    path: Path,
    facts: SnapshotFacts,
    placement: Placement,
    provenance: Provenance,
    spec: ModelSpec,
) -> ChatEngine:
    from hybrid_infer.local.generation.decoders import load_decoder
    from hybrid_infer.local.generation.engine import ChatEngine, end_tokens
    from hybrid_infer.local.generation.prompting import Prompter

    _compare_generation_defaults(path, spec)
    prompter = Prompter(path, spec.context_length or facts.context_length)
    return ChatEngine(load_decoder(path, placement), prompter, end_tokens(path), provenance)


def _gguf_engine(
    path: Path,
    facts: SnapshotFacts,
    spec: ModelSpec,
    gguf: GgufFile,
    placement: Placement,
    settings: Settings,
) -> ChatEngine:
    from hybrid_infer.local.generation.gguf.loading import load_gguf_engine

    # A file of another repository, or of no repository, is the user's word for these weights.
    is_verified = gguf.repo == spec.repo
    provenance = Provenance(
        spec.repo, gguf_revision(gguf), is_verified, placement.dtype, facts.quantization
    )
    fraction = settings.memory.local_fraction
    return load_gguf_engine(path, facts, spec, provenance, placement, fraction=fraction)


def _compare_generation_defaults(path: Path, spec: ModelSpec) -> None:
    """Say so when models.yaml samples differently than the snapshot's authors meant."""
    config = path / "generation_config.json"
    stated = read_json(config) if config.exists() else {}
    for option in ("temperature", "top_p", "top_k"):
        ours, theirs = getattr(spec.generation, option), stated.get(option)
        if stated.get("do_sample") and theirs is not None and ours is not None and ours != theirs:
            logger.warning(
                "%s: models.yaml says %s %s, the snapshot's generation_config says %s",
                spec.name,
                option,
                ours,
                theirs,
            )
