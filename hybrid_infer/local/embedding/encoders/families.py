"""Which family a snapshot belongs to, and the packed encoder built from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybrid_infer.local.embedding.encoders import TokenIds, bert, mpnet, t5, tail
from hybrid_infer.local.embedding.encoders.packed import Packed, Trunk
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.weights import Weights
from hybrid_infer.snapshots.facts import SnapshotFacts, read_json


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
    return family if family.supports(read_json(path / "config.json")) else None


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
            self._trunk = family.build(weights, read_json(path / "config.json"))
            self._tail = tail.Tail(path, facts, self._trunk.device, dtype)
        self._own_stream = _OwnStream(self._trunk.device)

    def encode(self, sequences: Sequence[TokenIds], *, normalize: bool) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        with self._own_stream():
            packed = Packed.of(sequences, self._trunk.device)
            pooled = self._tail(self._trunk(packed), packed, normalize=normalize)
            vectors: NDArray[np.float32] = pooled.cpu().numpy()
        return vectors


class _OwnStream:
    """A queue of a GPU for each thread, so that one thread's batch need not wait for another's.

    Args:
        device: where it computes; without a GPU there is nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_thread = threading.local()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was loaded is there for every queue

    def __call__(self) -> AbstractContextManager[object]:
        """Within it, what this thread computes goes to its queue."""
        if self._device.type != "cuda":
            return nullcontext()
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
        return torch.cuda.stream(self._of_thread.stream)
