"""`Decoder` over llama.cpp: a sequence for each row, all rows of a step in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid_infer.local.generation.decoders import Piece
from hybrid_infer.local.generation.gguf.library import Context, GgufModel, library
from hybrid_infer.local.generation.scheduling import extent

BATCH_TOKENS = 512  # of a prompt that are computed at once, llama-cpp-python's own number
_NO_ROOM = 1  # what llama_decode returns when there is no slot for a token
_UNKNOWN = -1


class GgufRows:
    """Keys and values of the answers under way: a llama.cpp context that grows, and goes when idle.

    A row is the sequence of its number. All of them share one buffer.

    Args:
        model: the weights.
        num_threads: threads that compute.
    """

    def __init__(self, model: GgufModel, num_threads: int) -> None:
        self._model, self._num_threads = model, num_threads
        self._context: Context | None = None
        self._num_sequences = self._num_tokens = 0  # that the context has room for
        self._places: dict[int, int] = {}  # that each row may come to hold
        self._lengths: dict[int, int] = {}  # tokens that it holds; _UNKNOWN after a failure

    @property
    def context(self) -> Context:
        """The context; there is one as long as there are rows."""
        if self._context is None:
            raise RuntimeError("there are no rows")
        return self._context

    def begin(self, row: int, places: int) -> None:
        """See `Rows.begin`."""
        tokens = sum(self._places.values()) + places
        if row >= self._num_sequences or tokens > self._num_tokens:
            self._grow(max(row + 1, self._num_sequences), max(tokens, self._num_tokens))
        self._places[row], self._lengths[row] = places, 0

    def _grow(self, sequences: int, tokens: int) -> None:
        sequences, tokens = 1 << (sequences - 1).bit_length(), extent(tokens)
        old = self._context
        new = Context(self._model, sequences, tokens, BATCH_TOKENS, self._num_threads)
        if old is not None:
            for row, length in self._lengths.items():
                if length:
                    old.copy_sequence(row, new)
            old.free()
        self._context, self._num_sequences, self._num_tokens = new, sequences, tokens

    def end(self, row: int) -> None:
        """See `Rows.end`."""
        if row in self._places:
            self.crop(row, 0)
            del self._places[row], self._lengths[row]
        if not self._places:
            self.clear()

    def clear(self) -> None:
        """See `Rows.clear`."""
        self._places.clear()
        self._lengths.clear()
        if self._context is not None:
            self._context.free()
            self._context, self._num_sequences, self._num_tokens = None, 0, 0

    def crop(self, row: int, length: int) -> None:
        """Let a row hold `length` tokens at most: what a step that failed added goes."""
        if self._lengths[row] != length:
            library().llama_memory_seq_rm(self.context.memory, row, length, -1)
            self._lengths[row] = length

    def compute(self, batch: Any, lengths: Mapping[int, int]) -> None:
        """Compute a batch.

        Args:
            batch: llama.cpp's ``llama_batch``.
            lengths: what each of its rows holds then.

        Raises:
            MemoryError: there is no room for it.
            RuntimeError: llama.cpp failed.
        """
        if batch.n_tokens > self._num_tokens:
            raise MemoryError  # llama.cpp would end the process
        self._lengths.update(dict.fromkeys(lengths, _UNKNOWN))
        code = library().llama_decode(self.context.pointer, batch)
        if code == _NO_ROOM:
            raise MemoryError
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        self._lengths.update(lengths)


class _Input:
    """A ``llama_batch`` over arrays of our own.

    Attributes:
        batch: the structure that ``llama_decode`` takes.
    """

    def __init__(self) -> None:
        llama = library()
        self._tokens, self._places, self._counts, self._numbers = (
            np.zeros(BATCH_TOKENS, np.int32) for _ in range(4)
        )
        self._counts[:] = 1  # each token belongs to one sequence
        self._wanted = np.zeros(BATCH_TOKENS, np.int8)
        # Of each token, where the number of its sequence stands.
        self._pointers = self._numbers.ctypes.data + 4 * np.arange(BATCH_TOKENS, dtype=np.uint64)
        whole = ctypes.POINTER(ctypes.c_int32)
        self.batch = llama.llama_batch(
            0,
            self._tokens.ctypes.data_as(whole),
            None,
            self._places.ctypes.data_as(whole),
            self._counts.ctypes.data_as(whole),
            self._pointers.ctypes.data_as(ctypes.POINTER(whole)),
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(
        self,
        tokens: Sequence[int],
        places: Sequence[int],
        rows: Sequence[int] | int,
        *,
        wants_all: bool,
    ) -> None:
        """Say what to compute.

        Args:
            tokens: what is read.
            places: where in its row each stands.
            rows: the row of each, or the one of all.
            wants_all: whether the logits behind each are wanted, or only behind the last.
        """
        count = len(tokens)
        self._tokens[:count] = tokens
        self._places[:count] = places
        self._numbers[:count] = rows
        self._wanted[:count] = wants_all
        self._wanted[count - 1] = 1
        self.batch.n_tokens = count


class GgufDecoder:
    """A GGUF file that many answers share; used by one thread.

    Args:
        model: the weights.
        num_threads: threads that compute.

    Attributes:
        device: where the logits are.
        cache: keys and values of the answers under way.
    """

    mixes = False
    reads_whole = False

    def __init__(self, model: GgufModel, num_threads: int) -> None:
        self.device = torch.device("cpu")
        self.cache = GgufRows(model, num_threads)
        self._vocabulary = int(library().llama_vocab_n_tokens(model.vocab))
        self._input = _Input()

    def prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """See `Decoder.prefill`."""
        if len(pieces) == 1:
            return self._prefill(pieces[0])
        return torch.cat([self._prefill(piece).clone() for piece in pieces])

    def _prefill(self, piece: Piece) -> Tensor:
        row, start, ids = piece
        self.cache.crop(row, start)
        for at in range(0, len(ids), BATCH_TOKENS):
            part = ids[at : at + BATCH_TOKENS]
            end = start + at + len(part)
            self._input.fill(part, range(start + at, end), row, wants_all=False)
            self.cache.compute(self._input.batch, {row: end})
        return self._logits(1)

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        for row, length in zip(rows, lengths, strict=True):
            self.cache.crop(row, length)
        self._input.fill(tokens, lengths, rows, wants_all=True)
        then = {row: length + 1 for row, length in zip(rows, lengths, strict=True)}
        self.cache.compute(self._input.batch, then)
        return self._logits(len(tokens))

    def _logits(self, rows: int) -> Tensor:
        """The newest logits; the next call writes over them."""
        address = library().llama_get_logits(self.cache.context.pointer)
        return torch.from_numpy(np.ctypeslib.as_array(address, (rows, self._vocabulary)))
