"""Decoders: one token more for many answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hybrid_infer.snapshots.facts import read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hybrid_infer.local.placement import Placement


class Rows(Protocol):
    """What the decoder remembers of each answer; used by one thread."""

    def reserve(self, rows: int, places: int) -> None:
        """Make room for `rows` rows of `places` tokens."""
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` hold the first `length` tokens of row `source`."""
        ...

    def release(self) -> None:
        """Give the memory back."""
        ...


class Decoder(Protocol):
    """A causal language model; used by one thread."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def cache(self) -> Rows:
        """Keys and values of the answers under way."""
        ...

    def prefill(self, row: int, start: int, ids: list[int]) -> Tensor:
        """Compute the tokens `ids` of a row that holds `start` already.

        Returns:
            The logits behind the last of them, float32 ``(1, vocabulary)``.
        """
        ...

    def decode(self, tokens: list[int], lengths: list[int], first: int = 0) -> Tensor:
        """Compute one more token of some neighbouring rows.

        Args:
            tokens: the newest token of each row.
            lengths: tokens that each row holds already.
            first: the first of these rows.

        Returns:
            The logits behind them, float32 ``(rows, vocabulary)``.
        """
        ...


def load_decoder(path: Path, placement: Placement) -> Decoder:
    """The decoder of a snapshot: our own for the families it knows, else transformers'."""
    import torch

    from hybrid_infer.local.generation.decoders import llama
    from hybrid_infer.local.generation.decoders.generic import Generic
    from hybrid_infer.local.weights import Weights

    config = read_json(path / "config.json")
    dtype, device = getattr(torch, placement.dtype), torch.device(placement.device)
    with torch.inference_mode():
        if placement.spread or not llama.supports(config):
            return Generic(path, placement)
        quantize = None
        if placement.quantization is not None:
            from hybrid_infer.local.quantizing import quantizer

            quantize = quantizer(placement.quantization, device)
        return llama.Llama(Weights.of_snapshot(path, placement.device, dtype, quantize), config)
