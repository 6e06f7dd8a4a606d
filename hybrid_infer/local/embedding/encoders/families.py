"""Which family a snapshot belongs to, and the packed encoder built from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybrid_infer.local.embedding.encoders import Direct, bert, mpnet, t5, tail
from hybrid_infer.local.embedding.encoders.native_stack import MOST_ROWS_ALONE
from hybrid_infer.local.embedding.encoders.packed import Means, Packed, Trunk, round_size
from hybrid_infer.local.embedding.encoders.shapes import Shape, Staging, rows_of_recording
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.recording import Recorder
from hybrid_infer.local.weights import Weights
from hybrid_infer.snapshots.architectures import model_config
from hybrid_infer.snapshots.facts import SnapshotFacts


@dataclass(frozen=True, slots=True)
class Family:
    """How to build a trunk, and when it may stand in for the snapshot's own modules."""

    build: Callable[[Weights, dict[str, Any]], Trunk]
    supports: Callable[[dict[str, Any]], bool]


FAMILIES = {
    "bert": Family(bert.Bert, bert.supports),
    "mpnet": Family(mpnet.MPNet, mpnet.supports),
    "t5": Family(t5.T5, t5.supports),
}


def find_family(path: Path, facts: SnapshotFacts) -> Family | None:
    """The family that computes exactly what the snapshot describes, or None."""
    family = FAMILIES.get(facts.model_type)
    if family is None or not tail.supports(path, facts):
        return None
    return family if family.supports(model_config(path)) else None


class DirectMeans:
    """The direct way of a trunk and a tail that one call computes; see `Direct`.

    Args:
        means: the call.
    """

    most_tokens = MOST_ROWS_ALONE

    def __init__(self, means: Means) -> None:
        self._means = means

    def __call__(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32] | None:
        """See `Direct.__call__`."""
        rows, is_finite = self._means(sequences, is_unit=normalize)
        return rows if is_finite else None


class PackedEncoder:
    """A trunk and its tail over packed batches.

    Args:
        path: the snapshot's folder.
        facts: what it says about itself.
        placement: device and dtype.
        family: how to build the trunk.
    """

    def __init__(
        self, path: Path, facts: SnapshotFacts, placement: Placement, family: Family
    ) -> None:
        dtype: torch.dtype = getattr(torch, placement.dtype)
        with torch.inference_mode():
            weights = Weights.of_snapshot(path, placement.device, dtype)
            self._trunk = family.build(weights, model_config(path))
            self._tail = tail.Tail(path, facts, self._trunk.device, dtype)
        self._means = self._trunk.means if self._tail.is_mean else None
        self.direct: Direct | None = None
        if self._means is not None:
            self.direct = DirectMeans(self._means)
        self._is_recordable = self._trunk.is_recordable and self._tail.is_recordable
        self._of_thread = threading.local()
        if self._trunk.device.type == "cuda":
            # What was loaded is there for every stream. To wait for the whole device would break what
            # another model may be recording.
            torch.cuda.current_stream(self._trunk.device).synchronize()

    def encode(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        if self._means is not None:
            rows, _ = self._means(sequences, is_unit=normalize)
            return rows
        if self._trunk.device.type != "cuda":
            return self._encode_sorted(sequences, normalize=normalize)
        with torch.cuda.stream(self._own.stream):
            if self._is_recordable:
                return self._encode_recorded(sequences, normalize=normalize)
            return self._encode_sorted(sequences, normalize=normalize)

    def num_places(self, *, tokens: int, count: int, longest: int) -> int:  # noqa: ARG002 - others pad
        """See `Encoder.num_places`: sequences lie end to end, and some ways end on a round size."""
        if self._means is not None:
            return tokens
        if self._trunk.device.type != "cuda":
            return round_size(tokens)
        return rows_of_recording(tokens) if self._is_recordable else tokens

    def _encode_recorded(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32]:
        shape, own = Shape.around(sequences), self._own
        block = own.staging(shape).put(shape, sequences)
        try:
            pooled = own.recorder(
                (shape, normalize),
                block,
                lambda block: self._pooled(shape.packed(block), normalize=normalize),
                is_kept=True,
            )
            vectors: NDArray[np.float32] = pooled[: len(sequences)].cpu().numpy()
        except BaseException:
            own.stream.synchronize()  # it may still read what the next batch will overwrite
            raise
        return vectors

    def _encode_sorted(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32]:
        """Longest first, so that those of similar lengths attend together; rows as they were given."""
        lengths = sequences.lengths
        places = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        packed = Packed.of(sequences.take(places), self._trunk.device)
        pooled = self._pooled(packed, normalize=normalize).cpu().numpy()
        vectors: NDArray[np.float32] = np.empty_like(pooled)
        vectors[places] = pooled
        return vectors

    def _pooled(self, packed: Packed, *, normalize: bool) -> torch.Tensor:
        return self._tail(self._trunk(packed), packed, normalize=normalize)

    @property
    def _own(self) -> _Own:
        own: _Own | None = getattr(self._of_thread, "own", None)
        if own is None:
            own = self._of_thread.own = _Own(self._trunk.device)
        return own


class _Own:
    """What each thread has of a GPU, so that one thread's batch need not wait for another's.

    Attributes:
        stream: its queue.
        recorder: what it has recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._device = device
        self.recorder = Recorder(device)
        self._staging: Staging | None = None

    def staging(self, shape: Shape) -> Staging:
        """From where the GPU reads batches of this shape."""
        if self._staging is None or not self._staging.has_room(shape):
            self._staging = Staging(shape.size)
            self.recorder = Recorder(self._device)  # recordings read from where the last one is
        return self._staging
