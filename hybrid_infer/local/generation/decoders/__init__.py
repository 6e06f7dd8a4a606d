"""Decoders: one token more for many answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hybrid_infer.snapshots.facts import read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hybrid_infer.local.placement import Placement


class Piece(NamedTuple):
    """Tokens of a prompt.

    Attributes:
        row: whose.
        start: tokens that the row holds already; what a piece that failed added is gone.
        ids: the tokens.
    """

    row: int
    start: int
    ids: list[int]


class Rows(Protocol):
    """What the decoder remembers of each answer; used by one thread."""

    def begin(self, row: int, places: int) -> None:
        """Row `row` begins, empty; it may come to hold `places` tokens. Rows are numbered from 0."""
        ...

    def end(self, row: int) -> None:
        """Row `row` holds nothing any more; memory goes back once none is left."""
        ...

    def clear(self) -> None:
        """No row holds anything any more. Computes nothing: the device may be lost."""
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

    @property
    def mixes(self) -> bool:
        """Whether the next token of an answer may be a piece among those of prompts, and costs little."""
        ...

    @property
    def reads_whole(self) -> bool:
        """Whether a prompt must be one piece."""
        ...

    def prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """Compute pieces of prompts, each of another row.

        Returns:
            The logits behind the last token of each, float32 ``(pieces, vocabulary)``; good until
            the next call.
        """
        ...

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """Compute one more token of some rows.

        Args:
            tokens: the newest token of each row.
            lengths: tokens that each row holds already; what a step that failed added is gone.
            rows: their numbers.

        Returns:
            The logits behind them, float32 ``(rows, vocabulary)``; good until the next call.
        """
        ...


def load_decoder(path: Path, placement: Placement) -> Decoder:
    """The decoder of a snapshot: our own for the families it knows, else transformers'."""
    import torch

    from hybrid_infer.local.generation.decoders import native, shape
    from hybrid_infer.local.generation.decoders.generic import Generic
    from hybrid_infer.local.generation.decoders.llama import Llama
    from hybrid_infer.local.generation.decoders.recorded import RecordedLlama
    from hybrid_infer.local.native import library
    from hybrid_infer.local.weights import Weights

    config = read_json(path / "config.json")
    dtype, device = getattr(torch, placement.dtype), torch.device(placement.device)
    with torch.inference_mode():
        if placement.spread or not shape.supports(config):
            return Generic(path, placement)
        if placement.quantization is not None:
            from hybrid_infer.local.quantizing import quantizer

            quantize = quantizer(placement.quantization, device)
            return Llama(Weights.of_snapshot(path, placement.device, dtype, quantize), config)
        weights = Weights.of_snapshot(path, placement.device, dtype)
        if native.supports(shape.Shape.of(config), weights.device, dtype):
            kernels = library()
            if kernels is not None:
                return native.NativeLlama(kernels, weights, config)
        if weights.device.type == "cuda":
            return RecordedLlama(weights, config)
        return Llama(weights, config)
