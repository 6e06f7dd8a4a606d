"""`Decoder` over llama.cpp: a sequence for each row, all rows of a step in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid_infer.local.generation.gguf.library import Context, GgufModel, library

BATCH_TOKENS = 512  # of a prompt that are computed at once, llama-cpp-python's own number
CAPACITY_STEP = 256  # llama.cpp pads to this
_NO_ROOM = 1  # what llama_decode returns when there is no slot for a token
_UNKNOWN = -1


class GgufRows:
    """Keys and values of the answers under way: a llama.cpp context that grows, and goes when idle.

    A row is a sequence of llama.cpp's. All of them share one buffer, so a row that takes the place of
    another only takes its sequence.

    Args:
        model: the weights.
        num_threads: threads that compute.
    """

    def __init__(self, model: GgufModel, num_threads: int) -> None:
        self._model, self._num_threads = model, num_threads
        self._context: Context | None = None
        self._places = 0
        self._sequences: list[int] = []  # of each row
        self._lengths: list[int] = []  # tokens that each sequence holds; _UNKNOWN after a failure

    @property
    def context(self) -> Context:
        """The context; there is one once room was reserved."""
        if self._context is None:
            raise RuntimeError("nothing was reserved")
        return self._context

    def sequences(self, first: int, count: int) -> list[int]:
        """The sequences of neighbouring rows."""
        return self._sequences[first : first + count]

    def reserve(self, rows: int, places: int) -> None:
        """Make room for `rows` rows of `places` tokens."""
        before = len(self._sequences)
        if rows <= before and places <= self._places:
            return
        rows = max(before, 1 << (rows - 1).bit_length())
        places = max(self._places, -(-places // CAPACITY_STEP) * CAPACITY_STEP)
        old = self._context
        new = Context(self._model, rows, rows * places, BATCH_TOKENS, self._num_threads)
        if old is not None:
            for sequence, length in enumerate(self._lengths):
                if length:
                    old.copy_sequence(sequence, new)
            old.free()
        self._context, self._places = new, places
        self._sequences += range(before, rows)
        self._lengths += [0] * (rows - before)

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` hold the first `length` tokens of row `source`."""
        sequences = self._sequences
        sequences[source], sequences[target] = sequences[target], sequences[source]
        self.crop(sequences[target], length)
        self.crop(sequences[source], 0)

    def crop(self, sequence: int, length: int) -> None:
        """Let a sequence hold `length` tokens at most: what a step that failed added goes."""
        if self._lengths[sequence] != length:
            library().llama_memory_seq_rm(self.context.memory, sequence, length, -1)
            self._lengths[sequence] = length

    def compute(self, batch: Any, lengths: Mapping[int, int]) -> None:
        """Compute a batch.

        Args:
            batch: llama.cpp's ``llama_batch``.
            lengths: what each of its sequences holds then.

        Raises:
            MemoryError: there is no room for it.
            RuntimeError: llama.cpp failed.
        """
        if batch.n_tokens > len(self._sequences) * self._places:
            raise MemoryError  # llama.cpp would end the process
        for sequence in lengths:
            self._lengths[sequence] = _UNKNOWN
        code = library().llama_decode(self.context.pointer, batch)
        if code == _NO_ROOM:
            raise MemoryError
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        for sequence, length in lengths.items():
            self._lengths[sequence] = length

    def release(self) -> None:
        """Give the memory back."""
        if self._context is not None:
            self._context.free()
        self._context, self._places = None, 0
        self._sequences, self._lengths = [], []


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
        sequences: Sequence[int] | int,
        *,
        wants_all: bool,
    ) -> None:
        """Say what to compute.

        Args:
            tokens: what is read.
            places: where in its sequence each stands.
            sequences: the sequence of each, or the one of all.
            wants_all: whether the logits behind each are wanted, or only behind the last.
        """
        count = len(tokens)
        self._tokens[:count] = tokens
        self._places[:count] = places
        self._numbers[:count] = sequences
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

    def __init__(self, model: GgufModel, num_threads: int) -> None:
        self.device = torch.device("cpu")
        self.cache = GgufRows(model, num_threads)
        self._vocabulary = int(library().llama_vocab_n_tokens(model.vocab))
        self._input = _Input()

    def prefill(self, row: int, start: int, ids: list[int]) -> Tensor:
        """See `Decoder.prefill`."""
        (sequence,) = self.cache.sequences(row, 1)
        self.cache.crop(sequence, start)
        for at in range(0, len(ids), BATCH_TOKENS):
            part = ids[at : at + BATCH_TOKENS]
            end = start + at + len(part)
            self._input.fill(part, range(start + at, end), sequence, wants_all=False)
            self.cache.compute(self._input.batch, {sequence: end})
        return self._logits(1)

    def decode(self, tokens: list[int], lengths: list[int], first: int = 0) -> Tensor:
        """See `Decoder.decode`."""
        sequences = self.cache.sequences(first, len(tokens))
        for sequence, length in zip(sequences, lengths, strict=True):
            self.cache.crop(sequence, length)
        self._input.fill(tokens, lengths, sequences, wants_all=True)
        then = {s: length + 1 for s, length in zip(sequences, lengths, strict=True)}
        self.cache.compute(self._input.batch, then)
        return self._logits(len(tokens))

    def _logits(self, rows: int) -> Tensor:
        """The newest logits; copied, for the next call writes over them."""
        address = library().llama_get_logits(self.cache.context.pointer)
        return torch.from_numpy(np.ctypeslib.as_array(address, (rows, self._vocabulary)).copy())
