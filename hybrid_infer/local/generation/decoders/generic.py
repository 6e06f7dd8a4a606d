"""Any causal language model that transformers ships, one answer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.errors import InsufficientMemoryError
from hybrid_infer.local.generation.decoders import Piece
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quiet import quiet_loading
from hybrid_infer.local.shipped import check_shipped


class Generic:
    """A model of transformers with its own kind of cache for each row.

    Args:
        path: the snapshot's folder.
        placement: devices, dtype and quantisation.

    Raises:
        InsufficientMemoryError: its layers do not fit the devices that share it.
    """

    mixes = False

    def __init__(self, path: Path, placement: Placement) -> None:
        self.device = torch.device(placement.device)
        check_shipped(path)
        with quiet_loading():
            from transformers import AutoModelForCausalLM

            model: Any = AutoModelForCausalLM.from_pretrained(  # nosec B615
                str(path),
                dtype=getattr(torch, placement.dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                **_placed(placement),
            )
        if "disk" in (getattr(model, "hf_device_map", None) or {}).values():
            raise InsufficientMemoryError(f"the layers of {path.name} do not fit the devices")
        self._model = model.eval()
        self.cache = RowCaches()

    def prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """See `Decoder.prefill`."""
        return torch.cat([self._reached(row, start + len(ids), ids) for row, start, ids in pieces])

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        return torch.cat(
            [
                self._reached(row, length + 1, [token])
                for row, token, length in zip(rows, tokens, lengths, strict=True)
            ]
        )

    def _reached(self, row: int, end: int, ids: list[int]) -> Tensor:
        """The logits of a row behind `end` tokens, of which `ids` are the last."""
        held = self.cache.by_row[row]
        # What failed for a neighbour is repeated. Not every kind of cache can go back.
        return held.logits if held.length == end else self._forward(held, ids)

    def _forward(self, held: RowCache, ids: list[int]) -> Tensor:
        if held.error is not None:
            raise held.error
        try:
            output = self._model(
                input_ids=torch.tensor([ids], device=self.device),
                past_key_values=held.past,
                use_cache=True,
                logits_to_keep=1,
            )
        except Exception as error:
            held.error = error  # some layers hold more tokens than others now
            raise
        held.past = output.past_key_values
        held.length += len(ids)
        held.logits = output.logits[:, -1].float()
        return held.logits


@dataclass(slots=True)
class RowCache:
    """A cache of one of transformers' own classes.

    Attributes:
        past: the cache.
        length: tokens in it.
        logits: those behind the last of them.
        error: what broke it.
    """

    past: Any = None
    length: int = 0
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    error: Exception | None = None


def _placed(placement: Placement) -> dict[str, Any]:
    """What transformers, and accelerate behind it, are told of devices and quantisation."""
    options: dict[str, Any] = {"device_map": {"": placement.device}}
    if placement.spread:
        # In order, each as full as it may be: the order is that of preference.
        limits = {_accelerate_name(device): limit for device, limit in placement.spread}
        options = {"device_map": "sequential", "max_memory": limits}
    if placement.quantization is not None:
        from transformers import TorchAoConfig

        from hybrid_infer.local.quantizing import scheme_config

        config = scheme_config(placement.quantization, torch.device(placement.device))
        options["quantization_config"] = TorchAoConfig(config)
    return options


def _accelerate_name(device: str) -> int | str:
    """A GPU is its number to accelerate."""
    return int(device.partition(":")[2] or 0) if device.startswith("cuda") else device


class RowCaches:
    """The caches by row."""

    def __init__(self) -> None:
        self.by_row: dict[int, RowCache] = {}

    def begin(self, row: int, places: int) -> None:  # noqa: ARG002 - they grow by themselves
        """See `Rows.begin`."""
        self.by_row[row] = RowCache()

    def end(self, row: int) -> None:
        """See `Rows.end`."""
        self.by_row.pop(row, None)

    def clear(self) -> None:
        """See `Rows.clear`."""
        self.by_row.clear()
