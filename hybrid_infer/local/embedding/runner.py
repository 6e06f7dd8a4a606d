"""Runs a batch so that every text in it gets its own row, or its own error."""

from __future__ import annotations

from traceback import clear_frames

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.errors import (
    EngineClosedError,
    HybridInferError,
    InsufficientMemoryError,
    LocalEngineError,
)
from hybrid_infer.local.embedding.crowd import Batch, Owner, one_by_one, part_of
from hybrid_infer.local.embedding.encoders import Encoder
from hybrid_infer.local.embedding.lanes import set_own_threads
from hybrid_infer.local.embedding.shares import Share
from hybrid_infer.local.embedding.texts import Slice
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.translation import is_device_lost, local_errors

CLEAN_BATCHES_TO_GROW = 64


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

    def run(self, batch: Batch, *, normalize: bool) -> bool:
        """Compute `batch` and deliver rows or errors; whether there were any rows.

        Raises:
            EngineClosedError: the device is lost; nothing more can be computed in this process.
        """
        parts, has_computed = [batch], False
        while parts:
            part = _unanswered(parts.pop())
            if not part:
                continue
            is_too_large = _num_tokens(part) > self.token_budget  # which has shrunk since
            if is_too_large and _num_texts(part) > 1:
                parts += _halves(part)
                continue
            try:
                with local_errors("embedding"):
                    rows = self._encode(part, normalize=normalize)
            except InsufficientMemoryError as error:
                self._shrink(part, error)
                parts += self._isolate(part, error)
            except LocalEngineError as error:
                if is_device_lost(error):
                    raise EngineClosedError(f"the device is lost: {error.message}") from error
                parts += self._isolate(part, error)
            else:
                has_computed |= self._deliver(part, rows)
                self._grow()
        return has_computed

    def _encode(self, part: Batch, *, normalize: bool) -> NDArray[np.float32]:
        sequences = Tokens.join([share.source.tokens.take(share.places) for share in part])
        return self._encoder.encode(sequences, normalize=normalize)

    @staticmethod
    def _isolate(part: Batch, error: InsufficientMemoryError | LocalEngineError) -> list[Batch]:
        """What is left to try of a batch that failed."""
        if _num_texts(part) > 1:
            return _halves(part)
        _fail(part[0], error)
        return []

    def _deliver(self, part: Batch, rows: NDArray[np.float32]) -> bool:
        """Give rows to those who wait for them; whether any is sound."""
        for share in part:
            for job in share.owner.members(share.places):
                job.deadline.renew()
        if not np.isfinite(rows).all():
            part, rows = self._sound(part, rows)
        stop = 0
        for share in part:
            start, stop = stop, stop + len(share)
            share.owner.put(share.source, share.places, rows[start:stop])
        return bool(part)

    def _sound(self, part: Batch, rows: NDArray[np.float32]) -> tuple[Batch, NDArray[np.float32]]:
        """What is left once the requests have failed in whose rows a value is not finite."""
        sound: Batch = []
        parts: list[NDArray[np.float32]] = [rows[:0]]
        stop = 0
        for own in one_by_one(part):
            start, stop = stop, stop + len(own)
            if np.isfinite(rows[start:stop]).all():
                sound.append(own)
                parts.append(rows[start:stop])
            else:
                _fail(own, not_a_number(self._provenance))
        return sound, np.concatenate(parts)

    def _shrink(self, part: Batch, error: InsufficientMemoryError) -> None:
        """A batch of `part`'s size does not fit."""
        for known in (error, error.__cause__):
            if known is not None:  # its frames hold all that had been computed
                clear_frames(known.__traceback__)
        _release_cached_memory()
        self._clean_batches = 0
        if _num_texts(part) > 1:
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


def _fail(share: Share[Owner, Slice], error: HybridInferError) -> None:
    """Fail all requests that have a part in it."""
    for job in share.owner.members(share.places):
        job.fail(error)


def _unanswered(part: Batch) -> Batch:
    """What of it somebody still waits for."""
    return part_of(part, lambda job: not job.done())


def _num_texts(part: Batch) -> int:
    return sum(map(len, part))


def _num_tokens(part: Batch) -> int:
    return sum(share.tokens for share in part)


def _halves(part: Batch) -> list[Batch]:
    """Two halves, to be tried from the end of the list."""
    left = _num_texts(part) // 2
    first: Batch = []
    rest = part.copy()
    while len(rest[0]) <= left:
        left -= len(rest[0])
        first.append(rest.pop(0))
    if left:
        own, rest[0] = rest[0].split(left)
        first.append(own)
    return [rest, first]


def _release_cached_memory() -> None:
    """Give cached blocks back to the device, so that a smaller batch may find a large one."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        torch.cuda.empty_cache()
