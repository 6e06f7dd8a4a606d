"""Llama and Phi-3 on a GPU: a step is recorded once and replayed, which takes no time on the CPU."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.generation.cache import Span
from hybrid_infer.local.generation.decoders.llama import Llama
from hybrid_infer.local.weights import Weights

STEPS_BEFORE_RECORDING = 2  # of a kind: they also let libraries prepare themselves
MAX_RECORDINGS = 48

logger = logging.getLogger("hybrid_infer")
Key = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class _Recording:
    """A step of one kind.

    Attributes:
        graph: what to replay.
        inputs: where it reads what `_inputs` makes.
        logits: where it leaves them.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


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
        self._recordings: OrderedDict[Key, _Recording] = OrderedDict()
        self._met: Counter[Key] = Counter()
        self._can_record = True

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """What is recorded cannot be on the stream that everything else is on."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's

    @cached_property
    def _pool(self) -> Any:
        """The memory of all recordings: no two of them run at the same time."""
        return torch.cuda.graph_pool_handle()

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
        with torch.cuda.device(self.device):
            return self._replayed(inputs.pin_memory(), spans)

    def _replayed(self, inputs: Tensor, spans: Sequence[Span]) -> Tensor:
        key = tuple(span.key for span in spans)
        recording = self._recordings.get(key)
        if recording is None and self._met[key] >= STEPS_BEFORE_RECORDING and self._can_record:
            recording = self._record(key, inputs, spans)
        if recording is None:
            self._met[key] += 1
            return self._span_logits(inputs.to(self.device, non_blocking=True), spans)
        self._recordings.move_to_end(key)
        recording.inputs.copy_(inputs, non_blocking=True)
        recording.graph.replay()
        return recording.logits

    def _record(self, key: Key, inputs: Tensor, spans: Sequence[Span]) -> _Recording | None:
        """A recording of a step, which is not computed yet; None where that cannot be had."""
        here = inputs.to(self.device)
        graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(now)
        try:
            with torch.cuda.stream(self._stream):
                # Other models of this process may allocate meanwhile, on threads of their own.
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                try:
                    logits = self._span_logits(here, spans)
                finally:
                    graph.capture_end()
        except torch.OutOfMemoryError:
            self._met[key] = 0  # later, perhaps
            return None
        except RuntimeError as error:
            self._can_record = False
            logger.warning("steps are computed one operator at a time: %s", error)
            return None
        now.wait_stream(self._stream)
        self._recordings[key] = recording = _Recording(graph, here, logits)
        self._met.clear()  # others come again; those of tensors that are gone do not
        if len(self._recordings) > MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording

    def _span_logits(self, inputs: Tensor, spans: Sequence[Span]) -> Tensor:
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
                self._attend_span(
                    span.written(layer, places[edge], key[edge], value[edge]), query[edge], mask
                )
                for span, edge, mask in zip(spans, edges, masks, strict=True)
            ]
            return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

        return self._logits(self._hidden(tokens, held, attend))

    def _attend_span(self, held: tuple[Tensor, Tensor], query: Tensor, mask: Tensor) -> Tensor:
        keys, values = held
        # The query heads of one key head attend as if they were several tokens: no copies.
        grouped = query.view(len(query), self._shape.num_kv_heads, -1, self._shape.head_dim)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, mask)
        return mixed.reshape(query.shape)


def _inputs(
    spans: Sequence[Span], tokens: Sequence[int], lengths: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """What a step over spans reads, and where its rows are in it.

    Returns:
        int64 ``(3, slots)``: of each slot the newest token, the place that it goes to, and the tokens
        before it; and for each row of the step the number of its slot.
    """
    values = torch.zeros((3, sum(span.count for span in spans)), dtype=torch.int64)
    chosen = [0] * len(tokens)
    columns = values.numpy()
    start = 0
    for span in spans:
        stop = start + span.count
        columns[1, start:stop] = span.places - 1
        columns[2, start:stop] = span.seen - 1
        for slot, number in span.slots:
            chosen[number] = start + slot
            columns[:, start + slot] = tokens[number], lengths[number], lengths[number]
        start = stop
    return values, chosen
