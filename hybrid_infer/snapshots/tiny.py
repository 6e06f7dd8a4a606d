"""The tiny profile's files: written once, whole or not at all, byte for byte the same everywhere."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError, ModelNotDownloadedError
from hybrid_infer.snapshots import tiny_chat_models, tiny_models
from hybrid_infer.snapshots.drafts import place_whole
from hybrid_infer.snapshots.folders import cache_root, repo_folder
from hybrid_infer.snapshots.integrity import check_complete
from hybrid_infer.snapshots.tiny_models import Array, TinyModel

BUILDERS: dict[str, Callable[[ModelSpec], TinyModel]] = {
    "tiny/Meta-Llama-3-8B-Instruct": tiny_chat_models.llama,
    "tiny/Phi-3-mini-4k-instruct": tiny_chat_models.phi,
    "tiny/all-mpnet-base-v2": tiny_models.mpnet,
    "tiny/sentence-t5-large": tiny_models.t5,
    "tiny/all-MiniLM-L6-v2": tiny_models.bert,
}

_warned = False


def ensure_tiny(spec: ModelSpec) -> Path:
    """The folder of a seeded model; it is written first if it is not there, or damaged.

    Args:
        spec: a model whose repo starts with ``tiny/``.

    Raises:
        ModelNotDownloadedError: there is no seeded twin of that name.
        LocalEngineError: the disk refused.
    """
    builder = BUILDERS.get(spec.repo)
    if builder is None or spec.revision is None:
        known = ", ".join(sorted(BUILDERS))
        raise ModelNotDownloadedError(f"{spec.repo} has no seeded model; there are: {known}")
    folder = repo_folder(spec.repo, cache_root() / "tiny") / "snapshots" / spec.revision
    if not _is_whole(spec, folder):
        place_whole(
            folder,
            lambda draft: write_tiny(builder(spec), draft),
            is_usable=lambda found: _is_whole(spec, found),
        )
    return folder


def _is_whole(spec: ModelSpec, folder: Path) -> bool:
    try:
        check_complete(spec.task, folder)
    except ModelIntegrityError:
        return False
    return True


def write_tiny(model: TinyModel, folder: Path) -> None:
    """Write every file of `model` below `folder`."""
    config = {**model.tokenizer.config, "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {
        **model.files,
        "tokenizer.json": model.tokenizer.tokenizer,
        "tokenizer_config.json": config,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_json_bytes(content))
    for name, tensors in model.tensors.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(safetensors_bytes(tensors))


def _json_bytes(content: Any) -> bytes:
    # Insertion order is kept: a vocabulary's order may carry meaning.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def safetensors_bytes(tensors: dict[str, Array]) -> bytes:
    """Float32 tensors in the safetensors format, in name order.

    The format (github.com/huggingface/safetensors): eight bytes of little-endian header length,
    a JSON header padded with blanks to a multiple of eight, then the tensors. Writing it here
    keeps the bytes independent of any serialiser's version.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    bodies: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        body = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(body)],
        }
        bodies.append(body)
        offset += len(body)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *bodies])


def warn_once(*, asked_in_code: bool) -> None:
    """Warn, one time a process, that seeded models serve.

    Silent where that cannot be a surprise: the profile was asked for in code, or ``CI`` is set.
    """
    global _warned  # noqa: PLW0603 - once a process is the point
    if _warned or asked_in_code or os.environ.get("CI"):
        return
    _warned = True
    warnings.warn(
        "HYBRID_INFER_PROFILE=tiny: small seeded models serve every alias; their answers mean nothing",
        stacklevel=5,  # the line that made the client
    )
