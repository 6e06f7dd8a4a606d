"""The stack of BERT and MPNet in our own kernels: ``native/encoder.c``."""

from __future__ import annotations

import ctypes
import math
import threading
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.embedding.attention import RelativeBias
from hybrid_infer.local.embedding.encoders.packed import Packed
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
        *((name, c_float) for name in ("scale", "epsilon")),
        *((name, c_void_p) for name in ("words", "positions")),
        ("norm", _Norm),
        ("relative", c_void_p),
        ("span", c_int64),
        ("layers", POINTER(_Layer)),
    )


class NativeStack:
    """A stack computed by the kernels; see `postnorm.load_stack`.

    Args:
        kernels: the compiled library.
        weights: the model's.
        config: its config.json.
        names: what its parts are called.
        positions: what is added to each word by its position, ``(positions, width)``.
        relative: what is added to attention scores by distance.
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
    ) -> None:
        self._encode = kernels.encode
        self._encode.argtypes = (
            POINTER(_Encoder),
            *(c_void_p,) * 3,
            *(c_int64,) * 3,
            *(c_void_p,) * 2,
            ctypes.c_int,
        )
        self._encode.restype = None
        self._room_bytes = kernels.encoder_room
        self._room_bytes.argtypes = (POINTER(_Encoder), c_int64)
        self._room_bytes.restype = c_int64
        self._kept: list[Tensor] = []  # the kernels hold addresses only
        self._weights = weights
        self._width, self._inner = config["hidden_size"], config["intermediate_size"]
        num_layers, num_heads = config["num_hidden_layers"], config["num_attention_heads"]
        head_size = self._width // num_heads
        self._group = _largest_part(num_heads, GROUP_COLUMNS // head_size) * head_size
        self._chunk = PANEL * _largest_part(self._inner // PANEL, CHUNK_COLUMNS // PANEL)
        layers = (_Layer * num_layers)(
            *(self._layer(f"encoder.layer.{number}.", names) for number in range(num_layers))
        )
        span = config["max_position_embeddings"]
        words = weights("embeddings.word_embeddings.weight")
        if not words.shape[1:] == positions.shape[1:] == (self._width,):
            raise ModelIntegrityError(f"words or positions are not {self._width} wide")
        self._num_words, self._num_positions = len(words), len(positions)
        self._encoder = _Encoder(
            width=self._width,
            num_heads=num_heads,
            inner=self._inner,
            num_layers=num_layers,
            heads_per_group=self._group // head_size,
            chunk=self._chunk,
            scale=head_size**-0.5 * math.log2(math.e),
            epsilon=config["layer_norm_eps"],
            words=self._keep(words),
            positions=self._keep(positions.float()),
            norm=self._norm("embeddings.LayerNorm"),
            relative=None if relative is None else self._keep(_by_distance(relative, span)),
            span=span,
            layers=layers,
        )
        self._rooms = threading.local()
        del self._weights

    def __call__(self, packed: Packed, positions: Tensor) -> Tensor:
        """See `postnorm.Stack`.

        Raises:
            IndexError: a token or its position is in no table, or a sequence is too long.
        """
        self._check(packed, positions)
        shares = max(1, packed.num_tokens // LEAST_ROWS_PER_THREAD)
        threads = min(torch.get_num_threads(), shares)
        block_rows = min(BLOCK_ROWS * threads, MAX_BLOCK_ROWS)
        out = torch.empty((packed.num_tokens, self._width), dtype=torch.bfloat16)
        lengths = torch.tensor(packed.lengths)
        room, room_rows = self._room(max(block_rows, packed.lengths[0]))
        self._encode(
            self._encoder,
            packed.ids.data_ptr(),
            positions.contiguous().data_ptr(),
            lengths.data_ptr(),
            len(packed.lengths),
            block_rows,
            room_rows,
            room.data_ptr(),
            out.data_ptr(),
            threads,
        )
        return out

    def _check(self, packed: Packed, positions: Tensor) -> None:
        """The kernels read wherever they are sent: a tokenizer need not fit its model."""
        longest = packed.lengths[0]
        if longest > self._encoder.span:
            raise IndexError(f"{longest} tokens are more than {self._encoder.span}")
        if not packed.num_tokens:  # of texts without a token; what follows finds no number in them
            return
        tables = (packed.ids, self._num_words), (positions, self._num_positions)
        for numbers, size in tables:
            least, most = numbers[: packed.num_tokens].aminmax()
            if int(least) < 0 or int(most) >= size:
                raise IndexError(f"{int(least)} to {int(most)} are not all in a table of {size}")

    def _room(self, rows: int) -> tuple[Tensor, int]:
        """The calling thread's scratch memory for blocks of at least `rows` rows."""
        room: tuple[Tensor, int] | None = getattr(self._rooms, "room", None)
        if room is None or room[1] < rows:
            size = self._room_bytes(self._encoder, rows)
            room = self._rooms.room = (torch.empty(size, dtype=torch.uint8), rows)
        return room

    def _layer(self, prefix: str, names: Names) -> _Layer:
        width, inner = self._width, self._inner
        qkv = [self._linear(prefix + name, width, width) for name in names.qkv]
        output, output_bias = self._linear(prefix + names.output, width, width)
        up, up_bias = self._linear(f"{prefix}intermediate.dense", inner, width)
        down, down_bias = self._linear(f"{prefix}output.dense", width, inner)
        # For each group of heads its queries, keys and values; for each chunk of inputs all outputs.
        groups = torch.stack([weight.view(-1, self._group, self._width) for weight, _ in qkv], 1)
        group_biases = torch.stack([bias.view(-1, self._group) for _, bias in qkv], 1)
        chunks = down.view(self._width, -1, self._chunk).unbind(1)
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
        parts = (self._weights.wide(f"{name}.{part}", self._width) for part in ("weight", "bias"))
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
