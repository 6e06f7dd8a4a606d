"""What a GPU computes again and again: recorded once as a CUDA graph, and replayed.

Launching an operator costs the CPU some microseconds, and each launch lets go of the interpreter's lock and
waits for it again. A replay is one launch, whatever it computes.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

TURNS_BEFORE_RECORDING = 2  # of a kind: most kinds never come again
MAX_RECORDINGS = 48
MAX_KINDS = 1024  # that are counted

logger = logging.getLogger("hybrid_infer")
# The generator of random numbers, which a recording registers with, is the same for all.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Recording:
    """Work of one kind.

    Attributes:
        graph: what to replay.
        inputs: where it reads.
        outputs: where it leaves what it has computed.
        source: from where it copies what it reads; None: it does not.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: Tensor
    source: Tensor | None


class Recorder:
    """Computes on a GPU, from recordings where there are some; used by one thread.

    All of its recordings share one pool of memory, because no two of them run at the same time.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._met: Counter[Hashable] = Counter()
        self._can_record = True

    @property
    def num_recordings(self) -> int:
        """Kinds that are recorded."""
        return len(self._recordings)

    def __call__(
        self,
        kind: Hashable,
        inputs: Tensor,
        compute: Callable[[Tensor], Tensor],
        *,
        is_kept: bool = False,
    ) -> Tensor:
        """What `compute` makes of `inputs`; good until the next call.

        Args:
            kind: equal for calls that do the same operations, on tensors of the same sizes at the same
                addresses, but for what depends on `inputs`.
            inputs: on the CPU, in memory that the system cannot move.
            compute: gets them on the GPU. It waits for nothing there, and computing twice does no harm.
            is_kept: whether inputs of a kind are at the same address every time, and are changed only once
                the outputs were waited for; then to copy them is a part of the recording.
        """
        with torch.cuda.device(self._device):
            recording = self._recordings.get(kind)
            if recording is None and self._can_record and self._has_come_again(kind):
                with _one_at_a_time:
                    recording = self._record(kind, inputs, compute, is_kept=is_kept)
            if recording is None:
                return compute(inputs.to(self._device, non_blocking=True))
            self._recordings.move_to_end(kind)
            if not is_kept:
                recording.inputs.copy_(inputs, non_blocking=True)
            recording.graph.replay()
            return recording.outputs

    def _has_come_again(self, kind: Hashable) -> bool:
        if len(self._met) > MAX_KINDS:
            self._met.clear()
        self._met[kind] += 1
        return self._met[kind] > TURNS_BEFORE_RECORDING

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.MemPool()

    def _record(
        self,
        kind: Hashable,
        inputs: Tensor,
        compute: Callable[[Tensor], Tensor],
        *,
        is_kept: bool,
    ) -> _Recording | None:
        """A recording, which is not computed yet; None where that cannot be had."""
        here = inputs.to(self._device)
        now = torch.cuda.current_stream()
        self._stream.wait_stream(now)
        try:
            with torch.cuda.stream(self._stream):
                # A recording that runs out of memory takes the process with it. So the pool gets what
                # will be needed before, and libraries their workspaces.
                with torch.cuda.use_mem_pool(self._pool):
                    compute(here)
                graph = torch.cuda.CUDAGraph()
                # Other models of this process may allocate meanwhile, on threads of their own.
                graph.capture_begin(self._pool.id, capture_error_mode="thread_local")
                try:
                    if is_kept:
                        here.copy_(inputs, non_blocking=True)
                    outputs = compute(here)
                finally:
                    graph.capture_end()
        except torch.OutOfMemoryError:
            self._recordings.clear()  # others need what they hold; they are made again
            del self._met[kind]
            return None
        except (AttributeError, RuntimeError, TypeError) as error:  # the last: another torch
            self._can_record = False
            logger.warning("this GPU is given one operator at a time: %s", error)
            return None
        finally:
            now.wait_stream(self._stream)
        self._recordings[kind] = recording = _Recording(
            graph, here, outputs, source=inputs if is_kept else None
        )
        del self._met[kind]
        if len(self._recordings) > MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording
