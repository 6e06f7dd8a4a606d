"""How large a model is: in memory, in a quantised copy, and with each token of a conversation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_infer.snapshots.reading import as_whole

STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_BLOCK = re.compile(r"(.*?\.\d+)\.")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model's tensors and configuration say of its size.

    Attributes:
        values: numbers in all of its tensors.
        layer_values: those in the matrices of its numbered layers, which a quantised copy makes
            smaller; embeddings, norms and the output head stay as they are.
        block_values: those of its largest part that cannot be split over devices: a layer, or a
            tensor outside of all layers.
        cache_values: keys and values that each token of a conversation adds to the cache; None
            where config.json does not say.
    """

    values: int = 0
    layer_values: int = 0
    block_values: int = 0
    cache_values: int | None = None


def sizes_of(headers: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> Sizes:
    """The sizes of a snapshot.

    Args:
        headers: of its safetensors files: tensors by name.
        config: its config.json.
    """
    blocks: Counter[str] = Counter()
    layer_values = 0
    for header in headers:
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            size = (end - begin) // STORED_BYTES.get(entry["dtype"], 4)
            block, shape = _BLOCK.match(name), entry.get("shape")
            blocks[block.group(1) if block else name] += size
            if block and isinstance(shape, list) and len(shape) == 2:  # noqa: PLR2004 - a matrix
                layer_values += size
    largest = max(blocks.values(), default=0)
    return Sizes(blocks.total(), layer_values, largest, _cache_values(config))


def _cache_values(config: Mapping[str, Any]) -> int | None:
    layers = as_whole(config.get("num_hidden_layers", config.get("n_layer")))
    heads = as_whole(config.get("num_attention_heads", config.get("n_head")))
    width = as_whole(config.get("hidden_size", config.get("n_embd")))
    kv_heads, head_dim = (as_whole(config.get(key)) for key in ("num_key_value_heads", "head_dim"))
    return cache_values(layers, heads, width, kv_heads, head_dim)


def cache_values(
    layers: int | None,
    heads: int | None,
    width: int | None,
    kv_heads: int | None,
    head_dim: int | None,
) -> int | None:
    """Keys and values of one token; None where too little is stated.

    Two for each layer, key head and place of a head (Vaswani et al. 2017; Ainslie et al. 2023).
    """
    if not layers or not heads or not width:
        return None
    return 2 * layers * (kv_heads or heads) * (head_dim or width // heads)
