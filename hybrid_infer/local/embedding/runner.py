"""Runs a batch so that every text in it gets its own row, or its own error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.errors import EngineClosedError, InsufficientMemoryError, LocalEngineError
from hybrid_infer.local.embedding.batching import Entry
from hybrid_infer.local.embedding.encoders import Encoder
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.lanes import set_own_threads
from hybrid_infer.local.translation import is_device_lost, local_errors

CLEAN_BATCHES_TO_GROW = 64

Batch = list[Entry[EmbedJob]]


class BatchRunner:
    """Encodes batches and survives what they do.

    - Out of memory: the token budget is halved and the batch tried again in halves; after
      `CLEAN_BATCHES_TO_GROW` batches without trouble the budget doubles, up to where it began.
    - Any other error: the batch is bisected, so that only the text that causes it fails. One such
      text among n costs at most ``2 * ceil(log2(n)) + 1`` more passes.
    - A row that is not finite fails its own request.

    Args:
        encoder: computes; used by one thread.
        token_budget: tokens of a batch at most.
        provenance: names the model in errors.
        num_threads: cores that this runner's thread may use; None: all.

    Attributes:
        token_budget: tokens of a batch at most, as of now.
    """

    def __init__(
        self,
        encoder: Encoder,
        token_budget: int,
        provenance: Provenance,
        num_threads: int | None = None,
    ) -> None:
        self._encoder = encoder
        self._num_threads = num_threads
        self._most_tokens = self.token_budget = token_budget
        self._clean_batches = 0
        self._provenance = provenance

    def prepare(self) -> None:
        """Keep the calling thread to its share of the cores."""
        if self._num_threads is not None:
            set_own_threads(self._num_threads)

    def run(self, batch: Batch, *, normalize: bool) -> None:
        """Compute `batch`, which is sorted by falling length, and deliver rows or errors.

        Raises:
            EngineClosedError: the device is lost; nothing more can be computed in this process.
        """
        parts = [batch]
        while parts:
            part = _unanswered(parts.pop())
            if not part:
                continue
            if len(part) > 1 and _num_tokens(part) > self.token_budget:  # it has shrunk since
                parts += _halves(part)
                continue
            try:
                with local_errors("embedding"):
                    rows = self._encode(part, normalize=normalize)
            except InsufficientMemoryError as error:
                self._shrink(part)
                parts += self._isolate(part, error)
            except LocalEngineError as error:
                if is_device_lost(error):
                    raise EngineClosedError(f"the device is lost: {error.message}") from error
                parts += self._isolate(part, error)
            else:
                self._deliver(part, rows)
                self._grow()

    def _encode(self, part: Batch, *, normalize: bool) -> NDArray[np.float32]:
        sequences = [entry.owner.texts.tokens(entry.index) for entry in part]
        return self._encoder.encode(sequences, normalize=normalize)

    @staticmethod
    def _isolate(part: Batch, error: InsufficientMemoryError | LocalEngineError) -> list[Batch]:
        """What is left to try of a batch that failed."""
        if len(part) > 1:
            return _halves(part)
        part[0].owner.fail(error)
        return []

    def _deliver(self, part: Batch, rows: NDArray[np.float32]) -> None:
        places: dict[EmbedJob, list[int]] = {}
        for place, entry in enumerate(part):
            places.setdefault(entry.owner, []).append(place)
        for owner in places:
            owner.deadline.renew()
        is_finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows), axis=1)
        is_sound = bool(is_finite.all())
        for owner, own in places.items():
            if is_sound or is_finite[own].all():
                owner.put(
                    [part[place].index for place in own], rows if len(places) == 1 else rows[own]
                )
            else:
                owner.fail(not_a_number(self._provenance))

    def _shrink(self, part: Batch) -> None:
        """A batch of `part`'s size does not fit."""
        _release_cached_memory()
        self._clean_batches = 0
        if len(part) > 1:
            self.token_budget = max(1, _num_tokens(part) // 2)

    def _grow(self) -> None:
        self._clean_batches += 1
        if self._clean_batches >= CLEAN_BATCHES_TO_GROW:
            self._clean_batches = 0
            self.token_budget = min(self._most_tokens, self.token_budget * 2)


def not_a_number(provenance: Provenance) -> LocalEngineError:
    """The error of a row that is not finite."""
    return LocalEngineError(
        f"{provenance.model} in {provenance.dtype} computed a value that is not a number"
    )


def _unanswered(part: Batch) -> Batch:
    """What of it somebody still waits for."""
    done = {owner for owner in {entry.owner for entry in part} if owner.is_done}
    return [entry for entry in part if entry.owner not in done] if done else part


def _num_tokens(part: Batch) -> int:
    return sum(entry.length for entry in part)


def _halves(part: Batch) -> list[Batch]:
    """Two halves, to be tried from the end of the list."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]


def _release_cached_memory() -> None:
    """Give cached blocks back to the device, so that a smaller batch may find a large one."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        torch.cuda.empty_cache()
