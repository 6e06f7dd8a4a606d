"""Whether a folder holds a whole, usable model: files and headers only, cheap enough for every look."""

from __future__ import annotations

import os
from pathlib import Path

from hybrid_infer.datatypes.models import Task
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.foreign import check_foreign
from hybrid_infer.snapshots.modules import Modules, modules_of
from hybrid_infer.snapshots.reading import looks_like
from hybrid_infer.snapshots.tensors import safetensors_file, safetensors_header, weight_files

# These have a configuration of their own; Normalize has none, and the Transformer's is the root's.
_CONFIGURED = frozenset({"Pooling", "Dense"})


def check_complete(task: Task, folder: Path) -> None:
    """Refuse what an interrupted download, a proxy's error page or a plain ``git clone`` leaves behind.

    Args:
        task: what the model is for; embeddings need sentence-transformers' files too.
        folder: a snapshot, or any folder in the layout of a repository.

    Raises:
        ModelIntegrityError: a file is missing, empty, or not what its name says; the message
            names it.
    """
    _check_text(folder, "config.json")
    _check_text(folder, "tokenizer.json")
    modules: Modules = ()
    if task == "embeddings":
        _check_text(folder, "modules.json")
        modules = modules_of(folder)
    check_foreign(folder, modules)
    for kind, path in modules:
        _check_module(folder / path, kind)
    transformers = {folder, *(folder / path for kind, path in modules if kind == "Transformer")}
    for place in sorted(transformers):
        for file in weight_files(place):
            safetensors_header(file)


def _check_module(folder: Path, kind: str) -> None:
    if kind in _CONFIGURED:
        _check_text(folder, "config.json")
    if kind == "Dense":
        safetensors_header(safetensors_file(folder))
    elif kind != "Transformer" and next(folder.glob("*.bin"), None):
        safetensors_file(folder)  # or its loader would take the pickle


def _check_text(folder: Path, name: str) -> None:
    """Look at the first bytes only: a tokenizer has megabytes, and its reader checks the rest."""
    file = folder / name
    if not file.is_file():
        raise ModelIntegrityError(f"{folder} lacks {name}")
    try:
        with file.open("rb") as opened:
            start = opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        guess = looks_like(file)
    except OSError as error:
        raise ModelIntegrityError(f"{file} cannot be read: {error.strerror}") from None
    if not start.startswith((b"{", b"[")):
        raise ModelIntegrityError(f"{file} is not valid JSON{guess}")


def check_inside(folder: Path, cache: Path) -> None:
    """Refuse links that lead out of the cache.

    Links within it are the ordinary layout: to the repository's own blobs, and from there to the
    blobs that repositories share (huggingface_hub, ``utils/_shared_blobs.py``).

    Raises:
        ModelIntegrityError: one does; the message names it.
    """
    root = os.path.realpath(cache)
    for place in (str(folder), *_links_below(folder)):
        # realpath, unlike Path.resolve, does not raise for a link that points to itself.
        if os.path.commonpath([root, os.path.realpath(place)]) != root:
            raise ModelIntegrityError(f"{place} points outside {cache}")


def _links_below(folder: Path) -> list[str]:
    links: list[str] = []
    for base, folders, files in os.walk(folder):
        entries = (str(Path(base, name)) for name in (*folders, *files))
        links.extend(entry for entry in entries if Path(entry).is_symlink())
    return links
