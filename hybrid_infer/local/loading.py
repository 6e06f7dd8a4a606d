"""From a spec to a loaded engine: find the files, check them, place them, load them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.events import Observer, ignore
from hybrid_infer.local.copies import check_copy, find_copy
from hybrid_infer.local.entries import Loading
from hybrid_infer.local.generation.scheduling import Limits
from hybrid_infer.local.hardware import hardware
from hybrid_infer.local.placement import VALUE_BYTES, Claim, Placement, Situation
from hybrid_infer.local.refusal import place
from hybrid_infer.local.translation import loading_errors
from hybrid_infer.settings import Settings
from hybrid_infer.snapshots.facts import SnapshotFacts, read_json
from hybrid_infer.snapshots.gguf_files import gguf_revision
from hybrid_infer.snapshots.resolve import observed_revision

if TYPE_CHECKING:
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.generation.engine import ChatEngine

logger = logging.getLogger("hybrid_infer")
_importing = threading.Lock()


def load_engine(
    spec: ModelSpec,
    loading: Loading,
    *,
    device: str,
    dtype: str,
    settings: Settings,
    on_event: Observer = ignore,
) -> EmbeddingEngine | ChatEngine:
    """Load a model.

    Args:
        spec: which.
        loading: finds room for it, and is told how far it is.
        device: the client's.
        dtype: the client's.
        settings: the client's.
        on_event: told of what it computes.

    Raises:
        ModelNotDownloadedError: it is not on this machine.
        ModelIntegrityError: its files are damaged, or disagree with models.yaml or models.lock.
        InsufficientMemoryError: it does not fit.
        ConfigError: the device is not here, the dtype is forbidden for this model, or its file is
            quantised and that is not allowed.
    """
    path, facts = find_copy(spec)
    if spec.prompt is not None:  # of this, models.yaml decides
        facts = replace(facts, prompt=spec.prompt)

    def decide(claims: Sequence[Claim], gone: Sequence[Claim]) -> Placement:
        now = situation_of(spec, facts, device=device, dtype=dtype, settings=settings)
        return place(replace(now, claims=tuple(claims), gone=tuple(gone)))

    check_copy(spec, path, strict=settings.trust.strict)
    loading.enter("placing")
    placement = loading.place(decide)
    loading.enter("loading")
    if spec.gguf is not None:
        with loading_errors(spec.gguf.name):
            return _gguf_engine(path, facts, placement, spec, spec.gguf)
    provenance = Provenance(
        spec.repo, observed_revision(path), True, placement.dtype, placement.quantization
    )
    with loading_errors(spec.repo):
        if spec.task == "chat":
            return _chat_engine(path, facts, placement, provenance, spec)
        provenance = replace(provenance, prompt=facts.prompt)
        return _embedding_engine(path, facts, placement, provenance, settings, on_event)


def situation_of(
    spec: ModelSpec, facts: SnapshotFacts, *, device: str, dtype: str, settings: Settings
) -> Situation:
    """What placing `spec` depends on now, but for other loaded models. Imports torch.

    Raises:
        ConfigError: the device is not here.
    """
    from hybrid_infer.local.quantizing import has_torchao

    if spec.gguf is not None:
        from hybrid_infer.local.generation.gguf.library import gguf_device

        device = gguf_device(device)
    return Situation(
        spec, facts, hardware(device), dtype, settings.memory, has_torchao=has_torchao()
    )


def _embedding_engine(
    path: Path,
    facts: SnapshotFacts,
    placement: Placement,
    provenance: Provenance,
    settings: Settings,
    on_event: Observer,
) -> EmbeddingEngine:
    from hybrid_infer.local.embedding.encoders import load_encoder
    from hybrid_infer.local.embedding.engine import EmbeddingEngine
    from hybrid_infer.local.embedding.lanes import lane_threads
    from hybrid_infer.local.embedding.sizing import auto_token_budget
    from hybrid_infer.local.embedding.tokenizing import TextTokenizer

    tokenizer = TextTokenizer(path, facts.max_seq_length, facts.prompt)
    encoder = load_encoder(path, facts, placement)
    config = read_json(path / "config.json")
    token_budget = settings.embedding.token_budget or auto_token_budget(
        placement.device,
        hardware(placement.device).available_bytes,
        config.get("hidden_size") or config.get("d_model") or facts.dim or 1,
        VALUE_BYTES[placement.dtype],
    )
    return EmbeddingEngine(
        encoder,
        tokenizer,
        provenance,
        token_budget,
        lane_threads=lane_threads(placement.device, token_budget),
        on_event=on_event,
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

    with _importing:  # two models that load at once: its lazy modules do not bear two first looks
        from transformers import AutoTokenizer  # noqa: F401 - so that what follows finds it whole
    _compare_generation_defaults(path, spec)
    prompter = Prompter(path, spec.context_length or facts.context_length)
    limits = Limits.on(placement.device)
    if placement.cache_tokens is not None:
        limits = replace(limits, cache_tokens=placement.cache_tokens)
    return ChatEngine(
        load_decoder(path, placement), prompter, end_tokens(path), provenance, limits=limits
    )


def _gguf_engine(
    path: Path, facts: SnapshotFacts, placement: Placement, spec: ModelSpec, gguf: GgufFile
) -> ChatEngine:
    from hybrid_infer.local.generation.gguf.loading import load_gguf_engine

    # A file of another repository, or of no repository, is the user's word for these weights.
    is_verified = gguf.repo == spec.repo
    provenance = Provenance(
        spec.repo, gguf_revision(gguf), is_verified, placement.dtype, placement.quantization
    )
    return load_gguf_engine(
        path, placement, provenance, spec.context_length or facts.context_length
    )


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
