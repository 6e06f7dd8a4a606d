"""Any causal language model that transformers ships, one answer at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.errors import InsufficientMemoryError
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quiet import quiet_loading


class Generic:
    """A model of transformers with its own kind of cache for each row.

    Args:
        path: the snapshot's folder.
        placement: devices, dtype and quantisation.

    Raises:
        InsufficientMemoryError: its layers do not fit the devices that share it.
    """

    def __init__(self, path: Path, placement: Placement) -> None:
        self.device = torch.device(placement.device)
        with quiet_loading():
            from transformers import AutoModelForCausalLM

            model: Any = AutoModelForCausalLM.from_pretrained(
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

    def prefill(self, row: int, start: int, ids: list[int]) -> Tensor:
        """See `Decoder.prefill`."""
        if not start:
            self.cache.by_row[row] = None
        return self._forward(row, ids)

    def decode(self, tokens: list[int], lengths: list[int], first: int = 0) -> Tensor:
        """See `Decoder.decode`."""
        for row, length in enumerate(lengths, first):
            cache = self.cache.by_row[row]
            if cache.get_seq_length() > length:  # a step that failed for a neighbour is repeated
                cache.crop(length)
        return torch.cat([self._forward(row, [token]) for row, token in enumerate(tokens, first)])

    def _forward(self, row: int, ids: list[int]) -> Tensor:
        output = self._model(
            input_ids=torch.tensor([ids], device=self.device),
            past_key_values=self.cache.by_row.get(row),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.by_row[row] = output.past_key_values
        logits: Tensor = output.logits[:, -1].float()
        return logits


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
    """The caches of transformers' own classes, by row."""

    def __init__(self) -> None:
        self.by_row: dict[int, Any] = {}

    def reserve(self, rows: int, places: int) -> None:
        """They grow by themselves."""

    def move(self, source: int, target: int, length: int) -> None:  # noqa: ARG002 - the whole cache moves
        """Let row `target` hold what row `source` holds."""
        self.by_row[target] = self.by_row.pop(source)

    def release(self) -> None:
        """Give the memory back."""
        self.by_row.clear()
