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


def read_json(path: Path) -> Any:
    """The JSON of one file of a snapshot.

    Raises:
        ModelIntegrityError: missing, too large, or not JSON; the message names the file.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelIntegrityError(f"{path} is too large to be a configuration")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelIntegrityError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelIntegrityError(f"{path} is not valid JSON") from None


def _read_mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelIntegrityError(f"{path} must hold a JSON object")
    return value


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_mapping(path) if path.exists() else {}


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


def _modules(path: Path) -> tuple[tuple[str, str], ...]:
    file = path / "modules.json"
    if not file.exists():
        return ()
    listed = read_json(file)
    if not isinstance(listed, list) or not listed:
        raise ModelIntegrityError(f"{file} must hold a list of modules")
    modules: list[tuple[str, str]] = []
    for entry in listed:
        kind, folder = str(entry.get("type", "")), str(entry.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise ModelIntegrityError(
                f"{file} names the module type {kind!r}; only sentence_transformers' own are loaded"
            )
        if folder.startswith("/") or ".." in Path(folder).parts:
            raise ModelIntegrityError(f"{file} names the path {folder!r} outside the snapshot")
        modules.append((kind.rpartition(".")[2], folder))
    return tuple(modules)


def _pooling(path: Path, modules: tuple[tuple[str, str], ...]) -> str | None:
    for kind, folder in modules:
        if kind == "Pooling":
            config = _read_mapping(path / folder / "config.json")
            named = config.get("pooling_mode")
            if isinstance(named, str):
                return named
            modes = [name for key, name in _POOLING_MODES.items() if config.get(key)]
            return "+".join(modes) or None
    return None


def _max_seq_length(sentence: dict[str, Any], config: dict[str, Any]) -> int | None:
    stated = sentence.get("max_seq_length")
    if isinstance(stated, int):
        return stated
    positions = config.get("max_position_embeddings")
    return positions if isinstance(positions, int) else None


def _dim(path: Path, modules: tuple[tuple[str, str], ...], config: dict[str, Any]) -> int | None:
    for kind, folder in reversed(modules):
        if kind == "Dense":
            return _as_int(_read_mapping(path / folder / "config.json").get("out_features"))
        if kind == "Pooling":
            pooling = _read_mapping(path / folder / "config.json")
            stated = pooling.get("word_embedding_dimension", pooling.get("embedding_dimension"))
            if stated is not None:
                return _as_int(stated)
    return _as_int(config.get("hidden_size", config.get("d_model")))


def _as_int(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a snapshot's main model, in order.

    Raises:
        ModelIntegrityError: there are none, or a shard is missing.
    """
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(_read_mapping(index).get("weight_map", {}).values()))
        missing = [name for name in names if not (path / name).exists()]
        if missing or not names:
            raise ModelIntegrityError(f"{path} lacks {missing[0] if missing else 'every shard'}")
        return [path / name for name in names]
    single = path / "model.safetensors"
    if single.exists():
        return [single]
    unsafe = sorted(path.glob("*.bin"))
    hint = f"; {unsafe[0].name} is a pickle and is never loaded" if unsafe else ""
    raise ModelIntegrityError(f"{path} has no model.safetensors{hint}")


def safetensors_header(path: Path) -> dict[str, Any]:
    """The tensors that a safetensors file lists; the file's size must be what they add up to.

    The format is eight bytes of little-endian length, that much JSON, then the tensors
    (github.com/huggingface/safetensors, "Format").

    Raises:
        ModelIntegrityError: it is something else: truncated, HTML, a Git LFS pointer, empty.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1  # noqa: PLR2004
            if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelIntegrityError(f"{path} is not a safetensors file{_looks_like(path)}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelIntegrityError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelIntegrityError(f"{path} has a damaged header") from None
    try:
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (AttributeError, TypeError, KeyError, IndexError):
        raise ModelIntegrityError(f"{path} has a damaged header") from None
    if size != 8 + length + end:
        raise ModelIntegrityError(
            f"{path} has {size:,} bytes and should have {8 + length + end:,}: it is truncated "
            "or was overwritten"
        )
    return tensors


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return " (it is empty)"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer: the real file was not fetched)"
    if start.startswith(b"<"):
        return " (it is an HTML page)"
    return ""


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
