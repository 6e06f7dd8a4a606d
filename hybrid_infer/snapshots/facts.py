"""What a snapshot says about itself, and whether that is what its alias says."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError

MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 100 * 1024 * 1024  # the safetensors format's own bound

_POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What the files of a snapshot say.

    Attributes:
        model_type: the architecture, as config.json names it.
        modules: the sentence-transformers modules in order, as (kind, folder).
        pooling: the pooling's name; None for a chat model.
        dense: whether a Dense module follows the pooling.
        has_normalize: whether a Normalize module ends the pipeline.
        max_seq_length: tokens per text.
        dim: length of a vector.
        prompt: the default prompt's text.
        context_length: chat: the window in tokens.
        weight_bytes: size of all tensors on disk.
        weight_dtype: the dtype that most bytes are stored in, as safetensors names it.
    """

    model_type: str
    modules: tuple[tuple[str, str], ...]
    pooling: str | None
    dense: bool
    has_normalize: bool
    max_seq_length: int | None
    dim: int | None
    prompt: str
    context_length: int | None
    weight_bytes: int
    weight_dtype: str


def snapshot_facts(path: Path) -> SnapshotFacts:
    """Read a snapshot's configuration files.

    Raises:
        ModelIntegrityError: a file that is needed is missing or damaged; the message names it.
    """
    config = _read_mapping(path / "config.json")
    modules = _modules(path)
    pooling = _pooling(path, modules)
    sentence = _read_optional(path / "sentence_bert_config.json")
    headers = [safetensors_header(file) for file in weight_files(path)]
    prompts = _read_optional(path / "config_sentence_transformers.json")
    default_prompt = prompts.get("default_prompt_name")
    sizes: dict[str, int] = {}
    for header in headers:
        for entry in header.values():
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    return SnapshotFacts(
        model_type=str(config.get("model_type", "")),
        modules=modules,
        pooling=pooling,
        dense=any(kind == "Dense" for kind, _ in modules),
        has_normalize=any(kind == "Normalize" for kind, _ in modules),
        max_seq_length=_max_seq_length(sentence, config) if modules else None,
        dim=_dim(path, modules, config) if modules else None,
        prompt=str((prompts.get("prompts") or {}).get(default_prompt) or ""),
        context_length=None if modules else config.get("max_position_embeddings"),
        weight_bytes=sum(sizes.values()),
        weight_dtype=max(sizes, key=lambda dtype: sizes[dtype], default="F32"),
    )


@@MID@@


def check_assertions(spec: ModelSpec, facts: SnapshotFacts) -> None:
    """Compare what models.yaml asserts with what the snapshot says.

    Raises:
        ModelIntegrityError: they disagree; the message names the key and both values.
    """
    said = {
        "dim": (spec.dim, facts.dim),
        "max_seq_length": (spec.max_seq_length, facts.max_seq_length),
        "pooling": (spec.pooling, facts.pooling),
        "dense": (spec.dense, facts.dense),
        "prompt": (spec.prompt or None, facts.prompt),
        "context_length": (spec.context_length, facts.context_length),
    }
    for key, (asserted, found) in said.items():
        if asserted is not None and found is not None and asserted != found:
            raise ModelIntegrityError(
                f"{spec.name}: models.yaml says {key} {asserted!r}, the snapshot of {spec.repo} "
                f"says {found!r}"
            )


def complete_spec(spec: ModelSpec, facts: SnapshotFacts) -> ModelSpec:
    """`spec` with what only the snapshot knows."""
    if spec.task == "chat":
        return replace(spec, context_length=spec.context_length or facts.context_length)
    return replace(
        spec,
        dim=spec.dim or facts.dim,
        max_seq_length=spec.max_seq_length or facts.max_seq_length,
        pooling=spec.pooling or facts.pooling,
        dense=facts.dense if spec.dense is None else spec.dense,
        prompt=spec.prompt or facts.prompt,
    )
