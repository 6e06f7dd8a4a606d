"""Llama and Phi-3 on a GPU: a step is recorded once and replayed, which takes no time on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.local.generation.cache import Span
from hybrid_infer.local.generation.decoders.llama import Llama
from hybrid_infer.local.recording import Recorder
from hybrid_infer.local.weights import Weights


class RecordedLlama(Llama):
    """A decoder of the Llama family on a GPU that supports CUDA graphs.

    A graph knows addresses and sizes, so a step covers whole spans of the cache: all slots up to a
    power of two, and places up to one of two sizes an octave. A slot of a row that takes no part
    computes something that nobody reads; it is written to the slot's last place, which the row
    itself writes before it ever reads it.

    Args:
        weights: the snapshot's weights.
        config: its config.json.
    """

    def __init__(self, weights: Weights, config: dict[str, Any]) -> None:
        super().__init__(weights, config)
        self._recorder = Recorder(self.device)

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        spans = self.cache.spans(lengths, rows)
        inputs, chosen = _inputs(spans, tokens, lengths)
        logits = self._step(inputs, spans)
        if chosen == list(range(len(chosen))):
            return logits[: len(chosen)]
        return logits[torch.tensor(chosen, device=self.device)]

    def _step(self, inputs: Tensor, spans: Sequence[Span]) -> Tensor:
        """Logits of all slots; good until the next step."""
        kind = tuple(span.kind for span in spans)
        return self._recorder(kind, inputs.pin_memory(), partial(self._span_logits, spans))

    def _span_logits(self, spans: Sequence[Span], inputs: Tensor) -> Tensor:
        """A step over whole spans; only tensors of fixed sizes, and nothing that the CPU waits for."""
        tokens, places, held = inputs
        edges, stop = [], 0
        for span in spans:
            start, stop = stop, stop + span.count
            edges.append(slice(start, stop))
        masks = [
            span.mask(held[edge], self._shape.window)
            for span, edge in zip(spans, edges, strict=True)
        ]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            mixed = [
                self._attend_newest(
                    query[edge], span.written(layer, places[edge], key[edge], value[edge]), mask
                )
                for span, edge, mask in zip(spans, edges, masks, strict=True)
            ]
            return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

        return self._logits(self._hidden(tokens, held, attend))


def _inputs(
    spans: Sequence[Span], tokens: Sequence[int], lengths: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """What a step over spans reads, and where its rows are in it.

    Returns:
        int64 ``(3, slots)``: of each slot the newest token, the place that it goes to, and the tokens
        before it, none where nobody reads what it computes; and for each row of the step its slot.
    """
    values = torch.zeros((3, sum(span.count for span in spans)), dtype=torch.int64)
    chosen = [0] * len(tokens)
    columns = values.numpy()
    start = 0
    for span in spans:
        stop = start + span.count
        columns[1, start:stop] = span.places - 1
        for slot, number in span.slots:
            chosen[number] = start + slot
            columns[:, start + slot] = tokens[number], lengths[number], lengths[number]
        start = stop
    return values, chosen
