"""What a snapshot says about itself, and whether that is what its alias says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ConfigError, ModelIntegrityError
from hybrid_infer.snapshots.architectures import model_config
from hybrid_infer.snapshots.modules import Modules, modules_of, works_on_sentences
from hybrid_infer.snapshots.reading import as_whole, read_json, read_mapping, read_optional
from hybrid_infer.snapshots.sentence_config import sentence_config, tokenizer_arguments
from hybrid_infer.snapshots.sizes import Sizes, sizes_of
from hybrid_infer.snapshots.tensors import safetensors_header, weight_files

__all__ = [
    "SnapshotFacts",
    "check_assertions",
    "complete_spec",
    "read_json",
    "safetensors_header",
    "snapshot_facts",
    "weight_files",
]

_POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_UNLIMITED = 10**9  # transformers writes 1e30 for a tokenizer without a limit


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
        weight_dtype: the dtype that most bytes are stored in, as safetensors or ggml names it.
        sizes: how much there is of what.
        quantization: how a GGUF file's weights were made smaller, as ggml names it; None if they
            were not.
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
    sizes: Sizes = field(default_factory=Sizes)
    quantization: str | None = None


def snapshot_facts(path: Path) -> SnapshotFacts:
    """Read a snapshot's configuration files.

    Raises:
        ModelIntegrityError: a file that is needed is missing or damaged; the message names it.
    """
    config = model_config(path)
    modules = modules_of(path)
    pooling = _pooling(path, modules)
    headers = [safetensors_header(file) for file in weight_files(path)]
    stored: Counter[str] = Counter()
    for header in headers:
        for entry in header.values():
            begin, end = entry["data_offsets"]
            stored[entry["dtype"]] += end - begin
    return SnapshotFacts(
        model_type=str(config.get("model_type", "")),
        modules=modules,
        pooling=pooling,
        dense=any(kind == "Dense" for kind, _ in modules),
        has_normalize=bool(modules) and modules[-1][0] == "Normalize",
        max_seq_length=_max_seq_length(path, config) if modules else None,
        dim=_dim(path, modules, pooling, config) if modules else None,
        prompt=_default_prompt(path),
        context_length=None if modules else as_whole(config.get("max_position_embeddings")),
        weight_bytes=stored.total(),
        weight_dtype=max(stored, key=lambda dtype: stored[dtype], default="F32"),
        sizes=sizes_of(headers, config),
    )


def _default_prompt(path: Path) -> str:
    config = read_optional(path / "config_sentence_transformers.json")
    prompts, chosen = config.get("prompts"), config.get("default_prompt_name")
    if isinstance(prompts, dict) and isinstance(chosen, str):
        return str(prompts.get(chosen) or "")
    return ""


def _pooling(path: Path, modules: Modules) -> str | None:
    for kind, folder in modules:
        if kind == "Pooling":
            config = read_mapping(path / folder / "config.json")
            named: Any = config.get("pooling_mode")
            if isinstance(named, str):
                return named
            if not isinstance(named, list):
                named = [name for key, name in _POOLING_MODES.items() if config.get(key)]
            return "+".join(str(name) for name in named) or None
    return None


def _max_seq_length(path: Path, config: dict[str, Any]) -> int | None:
    """The limit that sentence-transformers would cut at: the stated one, else the lesser of two.

    Of two that are stated, the tokenizer's argument counts.
    """
    argument = tokenizer_arguments(path).get("model_max_length")
    for value in (argument, sentence_config(path).get("max_seq_length")):
        stated = as_whole(value)
        if stated is not None:
            return stated
    tokenizer = read_optional(path / "tokenizer_config.json")
    limits = (config.get("max_position_embeddings"), tokenizer.get("model_max_length"))
    whole = [limit for limit in map(as_whole, limits) if limit is not None]
    return min((limit for limit in whole if 0 < limit < _UNLIMITED), default=None)


def _dim(path: Path, modules: Modules, pooling: str | None, config: dict[str, Any]) -> int | None:
    for kind, folder in reversed(modules):
        if kind == "Dense" and works_on_sentences(path / folder):
            return as_whole(read_mapping(path / folder / "config.json").get("out_features"))
        if kind == "Pooling":
            stated = read_mapping(path / folder / "config.json")
            width = as_whole(
                stated.get("word_embedding_dimension", stated.get("embedding_dimension"))
            )
            if width is not None:
                return width * len((pooling or "").split("+"))
    return as_whole(config.get("hidden_size", config.get("d_model")))


def check_assertions(spec: ModelSpec, facts: SnapshotFacts) -> None:
    """Compare what models.yaml asserts with what the snapshot says.

    Raises:
        ModelIntegrityError: they disagree; the message names the key and both values.
        ConfigError: the weights are quantised, and models.yaml does not allow that.
    """
    if facts.quantization is not None and not spec.allow_quantized:
        raise ConfigError(
            f"{spec.name}: the local copy is quantised ({facts.quantization}), so its weights are "
            "not the remote's; to let it serve, say allow_quantized: true for it in models.yaml"
        )
    said = {
        "dim": (spec.dim, facts.dim),
        "max_seq_length": (spec.max_seq_length, facts.max_seq_length),
        "pooling": (spec.pooling, facts.pooling or "none"),
        "dense": (spec.dense, facts.dense),
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
        prompt=facts.prompt if spec.prompt is None else spec.prompt,
    )
