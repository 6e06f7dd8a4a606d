"""The answers that a decoder is computing: rows that join, take one token a step, and leave."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from hybrid_infer.errors import EngineClosedError, HybridInferError, LocalEngineError
from hybrid_infer.local.generation.decoders import Decoder
from hybrid_infer.local.generation.job import ChatJob
from hybrid_infer.local.translation import is_device_lost, local_errors
from hybrid_infer.local.waiting import too_late


@dataclass(slots=True)
class Row:
    """One answer in the decoder's cache.

    Attributes:
        job: whose.
        length: tokens in the cache.
        newest: the token that the next step reads; None while the prompt is not yet whole.
    """

    job: ChatJob
    length: int = 0
    newest: int | None = None


class Batch:
    """The rows of one decoder; used by one thread.

    Rows that are being decoded lie at the front of the cache, and the one whose prompt is being
    computed lies behind them. Whoever leaves is replaced by the last row, so there are no gaps. An
    error is the error of the row that causes it: a step that fails is repeated in halves.

    Args:
        decoder: computes.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rows: list[Row] = []
        self._joining: Row | None = None

    @property
    def rows(self) -> list[Row]:
        """All of them, the joining one last."""
        return self._rows if self._joining is None else [*self._rows, self._joining]

    @property
    def can_be_joined(self) -> bool:
        """Whether no prompt is being computed."""
        return self._joining is None

    @property
    def jobs(self) -> list[ChatJob]:
        """Whose answers they are."""
        return [row.job for row in self.rows]

    def join(self, job: ChatJob) -> None:
        """Take a request in."""
        self._joining = Row(job)

    def drop_unwanted(self) -> None:
        """Let those leave whom nobody waits for, or whose time is up."""
        for index, row in reversed(list(enumerate(self.rows))):
            if not row.job.is_done and row.job.deadline.expired():
                row.job.fail(too_late(row.job.deadline))
            if row.job.is_done:
                self._leave(index)

    @property
    def prompt_tokens_left(self) -> int:
        """Tokens of the joining prompt that are not computed yet."""
        row = self._joining
        return 0 if row is None else len(row.job.tokens) - row.length

    def prefill(self, size: int) -> None:
        """Compute the next `size` tokens of the joining prompt."""
        row, index = self._joining, len(self._rows)
        if row is None:
            return
        ids = row.job.tokens[row.length : row.length + size]
        try:
            with local_errors("generation"):
                self._decoder.cache.reserve(index + 1, row.job.places)
                logits = self._decoder.prefill(index, row.length, ids)
        except HybridInferError as error:
            self._fail(index, error)
            return
        row.length += len(ids)
        if row.length < len(row.job.tokens):
            return
        self._rows.append(row)
        self._joining = None
        row.job.begin()
        if row.job.max_new_tokens:
            self._advance(index, logits)
        else:
            row.job.finish("length")
            self._leave(index)

    def decode(self) -> int:
        """One more token for each row; how many."""
        count = len(self._rows)
        parts = list(self._logits(0, count)) if count else []
        for first, logits in reversed(parts):  # who leaves is replaced from behind
            self._advance(first, logits)
        return count

    def _logits(self, first: int, count: int) -> Iterator[tuple[int, Tensor]]:
        """Logits of neighbouring rows; a row whose error it was is left out, and fails."""
        rows = self._rows[first : first + count]
        tokens = [row.newest for row in rows if row.newest is not None]
        try:
            with local_errors("generation"):
                yield first, self._decoder.decode(tokens, [row.length for row in rows], first)
        except HybridInferError as error:
            if count > 1 and not is_device_lost(error):
                yield from self._logits(first, count // 2)
                yield from self._logits(first + count // 2, count - count // 2)
            else:
                _raise_if_lost(error)
                rows[0].job.fail(error)  # it leaves before the next step

    def _advance(self, first: int, logits: Tensor) -> None:
        """Let rows take a token each.

        Args:
            first: the first of these rows.
            logits: float32 ``(rows, vocabulary)``.
        """
        values, likeliest = logits.max(-1)
        choices = zip(values.tolist(), likeliest.tolist(), strict=True)
        for offset, (value, token) in reversed(list(enumerate(choices))):
            index = first + offset
            row = self._rows[index]
            row.length = row.length if row.newest is None else row.length + 1
            try:
                with local_errors("generation"):
                    if math.isnan(value) or value == math.inf:
                        raise LocalEngineError("generation computed a value that is not a number")
                    row.newest = token if row.job.is_greedy else row.job.choose(logits[offset])
                    has_ended = row.job.take(row.newest)
            except HybridInferError as error:
                self._fail(index, error)
                continue
            if has_ended:
                self._leave(index)

    def _fail(self, index: int, error: HybridInferError) -> None:
        _raise_if_lost(error)
        self.rows[index].job.fail(error)
        self._leave(index)

    def _leave(self, index: int) -> None:
        """Forget a row; the last one takes its place."""
        cache, last = self._decoder.cache, len(self._rows) - 1
        if index > last:
            self._joining = None
        else:
            if index < last:
                cache.move(last, index, self._rows[last].length)
                self._rows[index] = self._rows[last]
            self._rows.pop()
            if self._joining is not None and self._joining.length:
                cache.move(last + 1, last, self._joining.length)
        if not self.rows:
            cache.release()


def _raise_if_lost(error: HybridInferError) -> None:
    if is_device_lost(error):
        raise EngineClosedError(f"the device is lost: {error.message}") from error
