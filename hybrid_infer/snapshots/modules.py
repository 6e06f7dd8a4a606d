"""The sentence-transformers modules of a snapshot, as modules.json lists them."""

from __future__ import annotations

import re
from pathlib import Path

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.reading import read_json, read_optional

# A class, by convention in capitals: what a module of theirs imports for itself is none.
_OWN_TYPE = re.compile(r"sentence_transformers(\.[A-Za-z_][A-Za-z0-9_]*)*\.[A-Z][A-Za-z0-9_]*")
# What a text encoder is made of. Others load models of their own (SentenceTransformer, CLIPModel),
# or parts that a second file lists (Router, Asym) or a class that one names (WordEmbeddings).
_KINDS = frozenset(
    {
        "Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "CNN", "LSTM",
        "WeightedLayerPooling",
    }
)  # fmt: skip

Modules = tuple[tuple[str, str], ...]
_SENTENCE = "sentence_embedding"  # what sentence-transformers calls the vector of a text


def modules_of(path: Path) -> Modules:
    """The modules in order, as (kind, folder); empty for a snapshot without modules.json.

    Raises:
        ModelIntegrityError: the list is damaged, or names foreign code or a path outside.
    """
    file = path / "modules.json"
    if not file.exists():
        return ()
    listed = read_json(file)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise ModelIntegrityError(f"{file} must hold a list of modules")
    if not listed:
        raise ModelIntegrityError(f"{file} lists no modules")
    modules: list[tuple[str, str]] = []
    for entry in listed:
        kind, folder = str(entry.get("type", "")), str(entry.get("path", ""))
        if not _OWN_TYPE.fullmatch(kind) or kind.rpartition(".")[2] not in _KINDS:
            raise ModelIntegrityError(
                f"{file} names the module type {kind!r}; only sentence_transformers' own "
                f"are loaded, and of those {', '.join(sorted(_KINDS))}"
            )
        if folder.startswith("/") or ".." in Path(folder).parts:
            raise ModelIntegrityError(f"{file} names the path {folder!r} outside the snapshot")
        modules.append((kind.rpartition(".")[2], folder))
    return tuple(modules)


def works_on_sentences(folder: Path) -> bool:
    """Whether a Dense or Normalize module takes the vector of a text and puts its own in its place.

    Args:
        folder: the module's.

    Raises:
        ModelIntegrityError: its configuration is damaged.
    """
    config = read_optional(folder / "config.json")
    source = config.get("module_input_name", _SENTENCE)
    return bool(source == _SENTENCE and config.get("module_output_name") in (None, _SENTENCE))
