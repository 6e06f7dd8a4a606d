"""The answers that a decoder is computing: rows that join, take one token a step, and leave."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from hybrid_infer.errors import EngineClosedError, HybridInferError, LocalEngineError
from hybrid_infer.local.generation.decoders import Decoder, Piece
from hybrid_infer.local.generation.job import ChatJob
from hybrid_infer.local.translation import is_device_lost, local_errors
from hybrid_infer.local.waiting import too_late


@dataclass(slots=True, eq=False)
class Row:
    """One answer in the decoder's cache.

    Attributes:
        job: whose.
        number: which row of the cache.
        length: tokens in the cache.
        newest: the token that the next step reads; None while the prompt is not yet whole.
    """

    job: ChatJob
    number: int
    length: int = 0
    newest: int | None = None


class Batch:
    """The rows of one decoder; used by one thread.

    Prompts take turns, a piece each. An error is the error of the row that causes it: a step that
    fails is repeated in halves.

    Args:
        decoder: computes.

    Attributes:
        progress: pieces of prompts and tokens of answers that have been computed, without an error.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.progress = 0
        self._rows: list[Row] = []
        self._prompts: deque[Row] = deque()  # those of them that are not whole, in turns

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_answers(self) -> int:
        """Rows that wait for their next token."""
        return len(self._rows) - len(self._prompts)

    @property
    def jobs(self) -> list[ChatJob]:
        """Whose answers they are."""
        return [row.job for row in self._rows]

    def join(self, job: ChatJob) -> None:
        """Take a request in."""
        taken = {row.number for row in self._rows}
        row = Row(job, next(number for number in count() if number not in taken))
        self._rows.append(row)
        self._prompts.append(row)

    def drop_unwanted(self) -> None:
        """Let those leave whom nobody waits for, or whose time is up."""
        for row in list(self._rows):
            if not row.job.is_done and row.job.deadline.expired():
                row.job.fail(too_late(row.job.deadline))
            if row.job.is_done:
                self._leave(row)

    def clear(self) -> None:
        """Forget all rows."""
        self._rows.clear()
        self._prompts.clear()
        self._decoder.cache.clear()

    @property
    def prompt_tokens_left(self) -> int:
        """Tokens of the prompts that are not computed yet."""
        return sum(len(row.job.tokens) - row.length for row in self._prompts)

    def prefill(self, size: int) -> int:
        """Compute `size` more tokens of the prompts, those first whose last turn is longest ago.

        Where the decoder can, each answer under way gets its next token in the same pass. Where it
        must read a prompt at once, the first one may have more tokens.

        Returns:
            How many answers did.
        """
        beside = [(row, [row.newest]) for row in self._rows if row.newest is not None]
        if not self._decoder.mixes:
            beside.clear()
        pieces: list[tuple[Row, list[int]]] = []
        for row in list(self._prompts):
            ids = row.job.tokens[row.length :]
            if not self._decoder.reads_whole:
                ids = ids[:size]
            elif pieces and len(ids) > size:
                break
            self._prompts.rotate(-1)
            if row.length or self._begin(row):
                pieces.append((row, ids))
                size -= len(ids)
            if size <= 0:
                break
        if pieces or beside:
            self._prefill(pieces + beside)
        return len(beside)

    def _begin(self, row: Row) -> bool:
        """Make room for an answer; whether there is."""
        try:
            with local_errors("generation"):
                self._decoder.cache.begin(row.number, row.job.places)
        except HybridInferError as error:
            self._fail(row, error)
            return False
        return True

    def _prefill(self, pieces: list[tuple[Row, list[int]]]) -> None:
        """Compute pieces of prompts and of answers; a row whose error it was fails."""
        try:
            with local_errors("generation"):
                scored = _scored(
                    self._decoder.prefill(
                        [Piece(row.number, row.length, ids) for row, ids in pieces]
                    )
                )
        except HybridInferError as error:
            if len(pieces) == 1 or is_device_lost(error):
                self._fail(pieces[0][0], error)
            else:
                half = len(pieces) // 2
                self._prefill(pieces[:half])
                self._prefill(pieces[half:])
            return
        for (row, ids), score in zip(pieces, scored, strict=True):
            row.length += len(ids)
            if row.newest is not None:
                self._advance([row], [score])
            elif row.length == len(row.job.tokens):
                self._begin_answer(row, score)
            else:
                self.progress += 1

    def _begin_answer(self, row: Row, score: tuple[float, int, Tensor]) -> None:
        """A prompt is whole; what its answer begins with, as `_scored` gives it."""
        self._prompts.remove(row)
        row.job.begin()
        if row.job.max_new_tokens:
            self._advance([row], [score])
        else:
            row.job.finish("length")
            self._leave(row)

    def decode(self) -> int:
        """One more token for each row; how many."""
        rows = [row for row in self._rows if row.newest is not None]
        if rows:
            self._step(rows)
        return len(rows)

    def _step(self, rows: list[Row]) -> None:
        """One more token for some rows; a row whose error it was fails."""
        tokens = [row.newest for row in rows if row.newest is not None]
        lengths, numbers = [row.length for row in rows], [row.number for row in rows]
        try:
            with local_errors("generation"):
                scored = _scored(self._decoder.decode(tokens, lengths, numbers))
        except HybridInferError as error:
            if len(rows) == 1 or is_device_lost(error):
                self._fail(rows[0], error)
            else:
                half = len(rows) // 2
                self._step(rows[:half])
                self._step(rows[half:])
            return
        for row in rows:
            row.length += 1
        self._advance(rows, scored)

    def _advance(self, rows: list[Row], scored: list[tuple[float, int, Tensor]]) -> None:
        """Let rows take a token each.

        Args:
            rows: which.
            scored: of each row, as `_scored` gives it.
        """
        for row, (value, token, scores) in zip(rows, scored, strict=True):
            try:
                with local_errors("generation"):
                    if math.isnan(value) or value == math.inf:
                        raise LocalEngineError("generation computed a value that is not a number")
                    row.newest = token if row.job.is_greedy else row.job.choose(scores)
                    has_ended = row.job.take(row.newest)
            except HybridInferError as error:
                self._fail(row, error)
                continue
            self.progress += 1
            if has_ended:
                self._leave(row)

    def _fail(self, row: Row, error: HybridInferError) -> None:
        if is_device_lost(error):
            raise EngineClosedError(f"the device is lost: {error.message}") from error
        row.job.fail(error)
        self._leave(row)

    def _leave(self, row: Row) -> None:
        """Forget a row."""
        self._rows.remove(row)
        if row in self._prompts:
            self._prompts.remove(row)
        self._decoder.cache.end(row.number)


def _scored(logits: Tensor) -> list[tuple[float, int, Tensor]]:
    """Of each row the greatest logit, its token, and all logits.

    Here a GPU is waited for, and its errors show.

    Args:
        logits: float32 ``(rows, vocabulary)``.
    """
    values, likeliest = logits.max(-1)
    return list(zip(values.tolist(), likeliest.tolist(), logits, strict=True))
