"""Which files of a repository belong into a snapshot, and which never do."""

from __future__ import annotations

import fnmatch
from pathlib import Path

# Tensors as safetensors, tokenizers and configurations; never pickles, never code.
ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
IGNORED = (
    *("onnx/*", "openvino/*", "original/*", "consolidated*.safetensors"),  # the same weights again
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.onnx", "*.gguf", "*.py"),
)


def is_allowed(name: str) -> bool:
    """Whether a file of a repository is one that belongs here.

    Args:
        name: its path with forward slashes; matched as the Hub's own patterns are.
    """
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED
    )


def allowed_files(directory: Path) -> list[Path]:
    """The files below `directory` that belong into a snapshot, as relative paths in order."""
    below = (file.relative_to(directory) for file in directory.rglob("*") if file.is_file())
    return sorted(file for file in below if is_allowed(file.as_posix()))
