"""The stack of BERT and MPNet in our own kernels: ``native/encoder.c``."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.embedding.attention import RelativeBias
from hybrid_infer.local.embedding.encoders.packed import Packed
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.native.panels import PANEL, panels
from hybrid_infer.local.weights import Weights

if TYPE_CHECKING:
    from hybrid_infer.local.embedding.encoders.postnorm import Names

MAX_TOKENS = 1024  # of one sequence: MOST_KEYS in the kernels
HEAD_SIZES = (32, 64)
# Rows that go through all layers together, and the columns that are computed of them at a time: what
# lies between two products is to stay in the second level of a core's cache.
BLOCK_ROWS, GROUP_COLUMNS, CHUNK_COLUMNS = 256, 128, 384
MAX_BLOCK_ROWS = 16_384  # for each of them, 128 bytes lie on the stack of every thread
# Fewer rows for each core take longer to share than to compute: reading the weights is what takes time.
LEAST_ROWS_PER_THREAD = 64
# So many are computed by one thread.
MOST_ROWS_ALONE = 2 * LEAST_ROWS_PER_THREAD - 1
# What the kernels are asked for, and what they say.
ROWS, MEANS, UNIT_MEANS = range(3)
_NOT_IN_TABLES, _NOT_FINITE = 1, 2


def supports(weights: Weights, config: dict[str, Any]) -> bool:
    """Whether the kernels compute a model of this configuration in these weights' dtype."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return (
        weights.dtype == torch.bfloat16
        and weights.device.type == "cpu"
        and width % PANEL == config["intermediate_size"] % PANEL == 0
        and width // heads in HEAD_SIZES
        and width % heads == 0
        and config["max_position_embeddings"] <= MAX_TOKENS
    )


class _Norm(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("qkv", "output", "up", "down")),
        *((f"{name}_bias", c_void_p) for name in ("qkv", "output", "up", "down")),
        ("attention_norm", _Norm),
        ("output_norm", _Norm),
    )


class _Encoder(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("width", "num_heads", "inner", "num_layers")),
        *((name, c_int64) for name in ("heads_per_group", "chunk")),
        *((name, c_int64) for name in ("num_words", "num_positions", "padding")),
        *((name, c_float) for name in ("scale", "epsilon")),
        *((name, c_void_p) for name in ("words", "positions")),
        ("norm", _Norm),
        ("relative", c_void_p),
        ("span", c_int64),
        ("layers", POINTER(_Layer)),
    )


class _Room(NamedTuple):
    """Scratch memory, where it is, and the rows and threads that it is enough for."""

    memory: Tensor | None
    address: int
    rows: int
    threads: int


class NativeStack:
    """A stack computed by the kernels; see `postnorm.load_stack`.

    Args:
        kernels: the compiled library.
        weights: the model's.
        config: its config.json.
        names: what its parts are called.
        positions: what is added to each word by its position, ``(positions, width)``.
        relative: what is added to attention scores by distance.
        padding: the token that does not advance the position, or None.

    Attributes:
        width: of a token's vector.
    """

    is_recordable = False

    def __init__(
        self,
        kernels: ctypes.CDLL,
        weights: Weights,
        config: dict[str, Any],
        names: Names,
        positions: Tensor,
        relative: RelativeBias | None,
        padding: int | None,
    ) -> None:
        self._encode, self._room_bytes = kernels.encode, kernels.encoder_room
        integers = (c_int64,) * 4
        self._encode.argtypes = (*(c_void_p,) * 3, *integers, c_void_p, c_int, c_void_p, c_int)
        self._encode.restype = c_int
        self._room_bytes.argtypes = (c_void_p, *integers[:2])
        self._room_bytes.restype = c_int64
        self._kept: list[Tensor] = []  # the kernels hold addresses only
        self._weights = weights
        self.width, self._inner = config["hidden_size"], config["intermediate_size"]
        num_layers, num_heads = config["num_hidden_layers"], config["num_attention_heads"]
        head_size = self.width // num_heads
        self._group = _largest_part(num_heads, GROUP_COLUMNS // head_size) * head_size
        self._chunk = PANEL * _largest_part(self._inner // PANEL, CHUNK_COLUMNS // PANEL)
        layers = (_Layer * num_layers)(
            *(self._layer(f"encoder.layer.{number}.", names) for number in range(num_layers))
        )
        span = config["max_position_embeddings"]
        words = weights("embeddings.word_embeddings.weight")
        if not words.shape[1:] == positions.shape[1:] == (self.width,):
            raise ModelIntegrityError(f"words or positions are not {self.width} wide")
        self._encoder = _Encoder(
            width=self.width,
            num_heads=num_heads,
            inner=self._inner,
            num_layers=num_layers,
            heads_per_group=self._group // head_size,
            chunk=self._chunk,
            num_words=len(words),
            num_positions=len(positions),
            padding=-1 if padding is None else padding,
            scale=head_size**-0.5 * math.log2(math.e),
            epsilon=config["layer_norm_eps"],
            words=self._keep(words),
            positions=self._keep(positions.float()),
            norm=self._norm("embeddings.LayerNorm"),
            relative=None if relative is None else self._keep(_by_distance(relative, span)),
            span=span,
            layers=layers,
        )
        self._address = ctypes.addressof(self._encoder)
        self._rooms: list[_Room] = []  # that nobody computes in
        del self._weights

    def __call__(self, packed: Packed) -> Tensor:
        """See `postnorm.Stack`.

        Raises:
            IndexError: a token or its position is in no table, or a sequence is too long.
        """
        ids = packed.ids[: packed.num_tokens].numpy().astype(np.int32)
        out = torch.empty((packed.num_tokens, self.width), dtype=torch.bfloat16)
        self._run(ids, packed.lengths, ROWS, out.data_ptr())
        return out

    def means(self, sequences: Tokens, *, is_unit: bool) -> tuple[NDArray[np.float32], bool]:
        """See `packed.Means`.

        Raises:
            IndexError: a token or its position is in no table, or a sequence is too long.
        """
        out: NDArray[np.float32] = np.empty((len(sequences), self.width), np.float32)
        outcome = UNIT_MEANS if is_unit else MEANS
        said = self._run(sequences.ids, sequences.lengths, outcome, out.ctypes.data)
        return out, said != _NOT_FINITE

    def _run(self, ids: NDArray[np.int32], lengths: Sequence[int], outcome: int, out: int) -> int:
        shares = max(1, len(ids) // LEAST_ROWS_PER_THREAD)
        threads = 1 if shares == 1 else min(torch.get_num_threads(), shares)
        block_rows = min(BLOCK_ROWS * threads, MAX_BLOCK_ROWS)
        sizes = np.array(lengths, np.int64)
        room = self._room(max(block_rows, *lengths), threads)
        said: int = self._encode(
            self._address,
            ids.ctypes.data,
            sizes.ctypes.data,
            len(lengths),
            block_rows,
            room.rows,
            room.threads,
            room.address,
            outcome,
            out,
            threads,
        )
        self._rooms.append(room)
        if said == _NOT_IN_TABLES:  # a tokenizer need not fit its model
            raise IndexError(
                f"a token is none of {self._encoder.num_words}, or a sequence of {max(lengths)} has "
                f"more than {self._encoder.span} tokens or {self._encoder.num_positions} positions"
            )
        return said

    def _room(self, rows: int, threads: int) -> _Room:
        """Scratch memory for blocks of at least `rows` rows; as many are made as compute at once."""
        try:
            room = self._rooms.pop()
        except IndexError:
            room = _Room(None, 0, 0, 0)
        if room.rows < rows or room.threads < threads:
            rows, threads = max(rows, room.rows), max(threads, room.threads)
            size = self._room_bytes(self._address, rows, threads)
            memory = torch.empty(size, dtype=torch.uint8)
            room = _Room(memory, memory.data_ptr(), rows, threads)
        return room

    def _layer(self, prefix: str, names: Names) -> _Layer:
        width, inner = self.width, self._inner
        qkv = [self._linear(prefix + name, width, width) for name in names.qkv]
        output, output_bias = self._linear(prefix + names.output, width, width)
        up, up_bias = self._linear(f"{prefix}intermediate.dense", inner, width)
        down, down_bias = self._linear(f"{prefix}output.dense", width, inner)
        # For each group of heads its queries, keys and values; for each chunk of inputs all outputs.
        groups = torch.stack([weight.view(-1, self._group, self.width) for weight, _ in qkv], 1)
        group_biases = torch.stack([bias.view(-1, self._group) for _, bias in qkv], 1)
        chunks = down.view(self.width, -1, self._chunk).unbind(1)
        return _Layer(
            qkv=self._keep(panels(groups.flatten(0, 2))),
            output=self._keep(panels(output)),
            up=self._keep(panels(up)),
            down=self._keep(torch.stack([panels(chunk) for chunk in chunks])),
            qkv_bias=self._keep(group_biases),
            output_bias=self._keep(output_bias),
            up_bias=self._keep(up_bias),
            down_bias=self._keep(down_bias),
            attention_norm=self._norm(prefix + names.norm),
            output_norm=self._norm(f"{prefix}output.LayerNorm"),
        )

    def _linear(self, name: str, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        weight = self._weights(f"{name}.weight", outputs, inputs)
        return weight, self._weights.wide(f"{name}.bias", outputs)

    def _norm(self, name: str) -> _Norm:
        parts = (self._weights.wide(f"{name}.{part}", self.width) for part in ("weight", "bias"))
        return _Norm(*map(self._keep, parts))

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _largest_part(whole: int, most: int) -> int:
    """The largest divisor of `whole` that is at most `most`."""
    return next(part for part in range(min(whole, most), 0, -1) if whole % part == 0)


def _by_distance(relative: RelativeBias, span: int) -> Tensor:
    """The bias by key minus query, from ``1 - span`` on, in powers of two: ``(heads, 2 * span - 1)``."""
    bias = relative(span)[0, :, :span, :span].float() * math.log2(math.e)
    first, last = bias[:, :, 0].flip(1), bias[:, 0, 1:]
    return torch.cat((first, last), dim=1)
