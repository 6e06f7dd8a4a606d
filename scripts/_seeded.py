"""A model of a real one's widths, with weights from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

T5_LAYERS = 4  # of the 24 that sentence-t5-large has; all are alike


def seeded_t5(folder: Path) -> Path:
    """A snapshot with sentence-t5-large's widths, fewer layers, and seeded weights."""
    import shutil

    from safetensors.numpy import load_file, save_file

    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.resolve import find_snapshot

    tiny = find_snapshot(load_registry(profile="tiny").resolve("embeddings", "large"))
    shutil.copytree(tiny, folder, symlinks=False)
    config = json.loads((tiny / "config.json").read_bytes())
    old = {name: config[name] for name in ("d_model", "d_ff", "num_layers")}
    old |= {"inner": config["num_heads"] * config["d_kv"], "heads": config["num_heads"]}
    config |= {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "d_kv": 64}
    config["num_layers"] = T5_LAYERS
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(0)

    def seeded(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.03).astype(np.float32)

    words = load_file(tiny / "model.safetensors")["shared.weight"].shape[0]
    tensors = {"shared.weight": seeded(words, 1024)}
    for number in range(T5_LAYERS):
        block = f"encoder.block.{number}.layer"
        for name in "qkvo":
            tensors[f"{block}.0.SelfAttention.{name}.weight"] = seeded(1024, 1024)
        tensors[f"{block}.1.DenseReluDense.wi.weight"] = seeded(4096, 1024)
        tensors[f"{block}.1.DenseReluDense.wo.weight"] = seeded(1024, 4096)
        for part in (0, 1):
            tensors[f"{block}.{part}.layer_norm.weight"] = np.ones(1024, np.float32)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[bias] = seeded(32, 16)
    tensors["encoder.final_layer_norm.weight"] = np.ones(1024, np.float32)
    save_file(tensors, folder / "model.safetensors")
    for dense in folder.glob("*_Dense"):
        stated = json.loads((dense / "config.json").read_bytes()) | {"in_features": 1024}
        (dense / "config.json").write_text(json.dumps(stated))
        save_file(
            {"linear.weight": seeded(stated["out_features"], 1024)}, dense / "model.safetensors"
        )
    for pooling in folder.glob("*_Pooling"):
        text = (pooling / "config.json").read_text(encoding="utf-8")
        (pooling / "config.json").write_text(text.replace(f": {old['d_model']}", ": 1024"))
    return folder
