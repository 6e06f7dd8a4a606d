"""Any causal language model that transformers ships, one answer at a time."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.errors import InsufficientMemoryError, ModelIntegrityError
from hybrid_infer.local.generation.decoders import Piece
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quiet import quiet_loading
from hybrid_infer.local.shipped import check_shipped

# What a forward pass takes and gives back, by the families' names for it.
_PAST = ("past_key_values", "cache_params")


class Generic:
    """A model of transformers with its own kind of cache for each row.

    Args:
        path: the snapshot's folder.
        placement: devices, dtype and quantisation.

    Raises:
        InsufficientMemoryError: its layers do not fit the devices that share it.
        ModelIntegrityError: what it remembers of a text cannot be handed back to it.
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
        arguments = inspect.signature(type(model).forward).parameters
        self._takes_positions = "position_ids" in arguments
        # Layers of several of them begin anew with each piece, so that a prompt must be one.
        self.reads_whole = bool(model._is_stateful)  # noqa: SLF001 - transformers' generate asks this
        self._borders = _borders(model.config.get_text_config())
        self._past = next((name for name in _PAST if name in arguments), "")
        self._check_memory(path)

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

    def _check_memory(self, path: Path) -> None:
        output = self._model(input_ids=torch.tensor([[0]], device=self.device), use_cache=True)
        if not self._past or getattr(output, self._past, None) is None:
            raise ModelIntegrityError(
                f"{path / 'config.json'} names an architecture that keeps nothing of what it has read "
                "between two steps, in a way that is known here; it is not computed"
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
            if self._must_restart(len(held.ids), len(ids)):
                ids, held.past, held.ids = held.ids + ids, None, []
            output = self._model(**self._inputs(held, ids))
        except Exception as error:
            held.error = error  # some layers hold more tokens than others now
            raise
        held.past = getattr(output, self._past)
        held.ids += ids
        held.logits = output.logits[:, -1].float()
        return held.logits

    def _must_restart(self, length: int, count: int) -> bool:
        """Whether what a row of `length` tokens holds is of no use once `count` more are read.

        Long rotary embeddings turn all positions otherwise once a text is longer than a border.
        """
        is_split = self.reads_whole and count > 1
        has_crossed = any(length <= border < length + count for border in self._borders)
        return length > 0 and (is_split or has_crossed)

    def _inputs(self, held: RowCache, ids: list[int]) -> dict[str, Any]:
        inputs = {
            "input_ids": torch.tensor([ids], device=self.device),
            self._past: held.past,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if self._takes_positions:  # not all of them count for themselves
            end = held.length + len(ids)
            inputs["position_ids"] = torch.arange(held.length, end, device=self.device)[None]
        return inputs


@dataclass(slots=True)
class RowCache:
    """A cache of one of transformers' own classes.

    Attributes:
        past: the cache.
        ids: the tokens in it.
        logits: those behind the last of them.
        error: what broke it.
    """

    past: Any = None
    ids: list[int] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    error: Exception | None = None

    @property
    def length(self) -> int:
        """How many tokens."""
        return len(self.ids)


def _borders(config: Any) -> frozenset[int]:
    """The lengths beyond which positions are turned otherwise (LongRoPE: Ding et al. 2024)."""
    rope = getattr(config, "rope_parameters", None) or {}
    # One for all layers, or one for each kind of them.
    ropes = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return frozenset(
        part["original_max_position_embeddings"]
        for part in ropes
        if part.get("rope_type") == "longrope"
    )


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
