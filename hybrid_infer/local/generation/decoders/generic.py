"""Any causal language model that transformers ships, one answer at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
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

    def prefill(self, row: int, start: int, ids: list[int]) -> Tensor:  # noqa: ARG002 - known
        """See `Decoder.prefill`."""
        return self._forward(self.cache.by_row[row], ids)

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        logits = []
        for row, token, length in zip(rows, tokens, lengths, strict=True):
            held = self.cache.by_row[row]
            # A step that failed for a neighbour is repeated. Not every kind of cache can go back.
            logits.append(held.logits if held.length > length else self._forward(held, [token]))
        return torch.cat(logits)

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
