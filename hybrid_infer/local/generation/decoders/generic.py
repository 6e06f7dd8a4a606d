"""Any causal language model that transformers ships, one answer at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.local.quiet import quiet_loading


class Generic:
    """A model of transformers with its own kind of cache for each row.

    Args:
        path: the snapshot's folder.
        device: where it computes.
        dtype: of its weights.
    """

    def __init__(self, path: Path, device: str, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        self.device = torch.device(device)
        with quiet_loading():
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(path),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        self._model = model.to(self.device).eval()
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
