"""What follows the transformer: pooling, Dense layers, normalisation, as the snapshot lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local import native
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.native.averages import can_average, segment_means
from hybrid_infer.local.weights import Linear, Weights
from hybrid_infer.snapshots.facts import SnapshotFacts, read_json
from hybrid_infer.snapshots.modules import works_on_sentences

Pool = Callable[[Tensor, Packed], Tensor]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": functional.relu,
    "GELU": functional.gelu,
}


def _sum(x: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    total = x.new_zeros(packed.num_sequences, x.shape[1], dtype=torch.float32)
    return total.index_add_(0, packed.segments, x.float()), packed.ends.diff()[:, None]


def _mean(x: Tensor, packed: Packed) -> Tensor:
    kernels = native.library()
    if kernels is not None and can_average(x):
        return segment_means(kernels, x, packed.lengths)
    total, lengths = _sum(x, packed)
    return total / lengths


def _mean_sqrt(x: Tensor, packed: Packed) -> Tensor:
    total, lengths = _sum(x, packed)
    return total / lengths.sqrt()


def _weighted_mean(x: Tensor, packed: Packed) -> Tensor:
    weight = (packed.positions[: packed.num_tokens] + 1)[:, None].float()
    total, _ = _sum(x.float() * weight, packed)
    weights, _ = _sum(weight, packed)
    return total / weights


def _first(x: Tensor, packed: Packed) -> Tensor:
    return x[packed.ends[:-1]].float()


def _last(x: Tensor, packed: Packed) -> Tensor:
    return x[packed.ends[1:] - 1].float()


def _max(x: Tensor, packed: Packed) -> Tensor:
    parts = torch.split_with_sizes(x.float(), list(packed.lengths))
    return torch.stack([part.amax(0) for part in parts])


POOLINGS: dict[str, Pool] = {
    "mean": _mean,
    "cls": _first,
    "max": _max,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Tail:
    """Pooling, then Dense layers, then normalisation where it is asked for.

    Args:
        path: the snapshot's folder.
        facts: what it says about itself.
        device: where the trunk computes.
        dtype: what the Dense layers compute in.

    Attributes:
        is_recordable: whether it needs nothing of a batch but what a recording has.
        is_mean: whether nothing but that follows the mean of each sequence.
    """

    def __init__(
        self, path: Path, facts: SnapshotFacts, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._pool = POOLINGS[str(facts.pooling)]
        self.is_recordable = self._pool is _mean
        self._dtype = dtype
        self._dense = [
            _dense(path / folder, device, dtype)
            for kind, folder in facts.modules
            if kind == "Dense"
        ]
        self.is_mean = facts.pooling == "mean" and not self._dense

    def __call__(self, x: Tensor, packed: Packed, *, normalize: bool) -> Tensor:
        """Float32 ``(sequences, dim)`` from ``(rows, width)``."""
        pooled = self._pool(x[: packed.num_tokens], packed)
        for linear, activation in self._dense:
            pooled = activation(linear(pooled.to(self._dtype)).float())
        return functional.normalize(pooled, dim=1) if normalize else pooled


def _dense(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> tuple[Linear, Callable[[Tensor], Tensor]]:
    config = read_json(folder / "config.json")
    weights = Weights([folder / "model.safetensors"], str(device), dtype)
    name = str(config.get("activation_function", "")).rpartition(".")[2]
    return weights.linear("linear", bias=bool(config.get("bias", True))), _ACTIVATIONS[name]


def supports(path: Path, facts: SnapshotFacts) -> bool:
    """Whether `Tail` computes what is behind the transformer: these modules, in this order, and no more."""
    modules = facts.modules[:-1] if facts.has_normalize else facts.modules
    kinds = [kind for kind, _ in modules]
    if kinds != ["Transformer", "Pooling", *["Dense"] * (len(kinds) - 2)]:
        return False
    return (
        facts.pooling in POOLINGS
        and not (facts.prompt and _excludes_prompt(path / modules[1][1]))
        and all(works_on_sentences(path / folder) for _, folder in facts.modules[2:])
        and all(_is_plain_dense(path / folder) for _, folder in modules[2:])
    )


def _excludes_prompt(folder: Path) -> bool:
    return not read_json(folder / "config.json").get("include_prompt", True)


def _is_plain_dense(folder: Path) -> bool:
    """Whether a Dense module is a linear layer and an activation that are here."""
    config = read_json(folder / "config.json")
    # Of what is not torch's own, sentence-transformers makes its default.
    package, _, name = str(config.get("activation_function", "")).rpartition(".")
    return (
        package.startswith("torch.")
        and name in _ACTIVATIONS
        and not config.get("use_residual")
        and (folder / "model.safetensors").exists()
    )
