"""Llama and Phi-3 in our own kernels: ``native/decoder.c``."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from ctypes import POINTER, Structure, addressof, c_float, c_int, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.local.generation.decoders import Piece
from hybrid_infer.local.generation.decoders.shape import Shape, angles
from hybrid_infer.local.generation.pages import PAGE_TOKENS, PagedRows
from hybrid_infer.local.native.panels import PANEL, panels
from hybrid_infer.local.weights import Weights

MAX_TOKENS = 256  # of one call, as in the kernels
MAX_HEAD_DIM = 256
MAX_PARTS = 65535  # of one phase
ALIGNMENT = 64  # a line of the cache


def supports(shape: Shape, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels compute a model of this shape."""
    heads = shape.num_heads + 2 * shape.num_kv_heads
    sizes = (shape.width, shape.inner, shape.num_heads * shape.head_dim, heads * shape.head_dim)
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and all(size % PANEL == 0 for size in sizes)
        and shape.num_heads % shape.num_kv_heads == 0
        and shape.head_dim % 16 == 0
        and shape.head_dim <= MAX_HEAD_DIM
        and max(-(-shape.vocabulary // PANEL), MAX_TOKENS * shape.num_kv_heads) <= MAX_PARTS
    )


class _Layer(Structure):
    _fields_ = tuple(
        (name, c_void_p)
        for name in ("input_norm", "output_norm", "qkv", "output", "gate_up", "down")
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("width", "inner", "num_heads", "num_kv_heads")),
        *((name, c_int64) for name in ("head_dim", "num_layers", "vocabulary", "window")),
        ("epsilon", c_float),
        ("layers", POINTER(_Layer)),
        *((name, c_void_p) for name in ("norm", "words", "head", "cosines", "sines")),
    )


class _Call(Structure):
    _fields_ = (
        ("num_tokens", c_int64),
        *((name, c_void_p) for name in ("tokens", "positions", "pages")),
        ("num_outputs", c_int64),
        *((name, c_void_p) for name in ("outputs", "logits")),
    )


class NativeLlama:
    """A decoder of the Llama family whose steps are single calls, with threads of their own.

    Args:
        kernels: the compiled library.
        weights: the snapshot's weights.
        config: its config.json.
    """

    mixes = True  # a pass reads all weights, however many tokens it has
    reads_whole = False

    def __init__(self, kernels: ctypes.CDLL, weights: Weights, config: dict[str, Any]) -> None:
        self.device = weights.device
        shape = self._shape = Shape.of(config)
        kernels.decoder_new.argtypes = (POINTER(_Model), c_int)
        kernels.decoder_new.restype, kernels.decoder_free.restype = c_void_p, None
        kernels.decoder_free.argtypes = (c_void_p,)
        kernels.decoder_run.argtypes = (c_void_p, POINTER(_Call))
        kernels.decoder_run.restype = None
        self._run = kernels.decoder_run
        self._num_positions: int = config["max_position_embeddings"]
        self._model = _packed(kernels, weights, shape, config)
        self._decoder = kernels.decoder_new(self._model.struct, torch.get_num_threads())
        if not self._decoder:
            raise MemoryError
        # Not when the interpreter ends: a thread may still be computing.
        weakref.finalize(self, kernels.decoder_free, self._decoder).atexit = False
        kv_width = shape.num_kv_heads * shape.head_dim
        self.cache = PagedRows(shape.num_layers * 2 * PAGE_TOKENS * kv_width)
        self._logits = torch.empty(0, shape.vocabulary)

    def prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """See `Decoder.prefill`."""
        tokens: list[int] = []
        positions: list[int] = []
        pages: list[int] = []
        ends: list[int] = []
        for row, start, ids in pieces:
            end = start + len(ids)
            tokens += ids
            positions += range(start, end)
            pages += [self.cache.reach(row, end)] * len(ids)
            ends.append(len(tokens) - 1)
        logits = self._room(len(pieces))
        done = 0
        for at in range(0, len(tokens), MAX_TOKENS):
            part = slice(at, at + MAX_TOKENS)
            wanted = [end - at for end in ends if at <= end < at + MAX_TOKENS]
            scored = logits[done : done + len(wanted)]
            self._compute(tokens[part], positions[part], pages[part], wanted, scored)
            done += len(wanted)
        return logits

    def decode(self, tokens: list[int], lengths: list[int], rows: list[int]) -> Tensor:
        """See `Decoder.decode`."""
        logits = self._room(len(rows))
        pages = [
            self.cache.reach(row, length + 1) for row, length in zip(rows, lengths, strict=True)
        ]
        for at in range(0, len(tokens), MAX_TOKENS):
            part = slice(at, at + MAX_TOKENS)
            outputs = range(len(tokens[part]))
            self._compute(tokens[part], lengths[part], pages[part], outputs, logits[part])
        return logits

    def _room(self, rows: int) -> Tensor:
        """Where logits go; it is kept, because the system takes as long to find it as to fill it."""
        if rows > len(self._logits):
            self._logits = torch.empty(rows, self._shape.vocabulary)
        return self._logits[:rows]

    def _compute(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        pages: Sequence[int],
        outputs: Sequence[int],
        logits: Tensor,
    ) -> None:
        """Have at most MAX_TOKENS tokens computed.

        Args:
            tokens: what is read.
            positions: where in its answer each stands.
            pages: where the addresses of its answer's pages stand.
            outputs: of which of them the logits are wanted.
            logits: where these go, float32 ``(outputs, vocabulary)``.

        Raises:
            IndexError: a token or a position is in no table; the kernels read wherever they are sent.
        """
        count = len(tokens)
        for read, size in ((tokens, self._shape.vocabulary), (positions, self._num_positions)):
            if min(read) < 0 or max(read) >= size:
                raise IndexError(f"{min(read)} to {max(read)} are not all in a table of {size}")
        numbers = c_int32 * count
        ids, at, wanted = numbers(*tokens), numbers(*positions), numbers(*outputs)
        tables = (c_void_p * count)(*pages)
        call = _Call(
            count,
            addressof(ids),
            addressof(at),
            addressof(tables),
            len(outputs),
            addressof(wanted),
            logits.data_ptr(),
        )
        self._run(self._decoder, call)


class _Packed:
    """What the kernels read of a model, which hold addresses only."""

    def __init__(self, kernels: ctypes.CDLL, elements: int) -> None:
        self._kept: list[Tensor] = []
        size = 2 * elements + ALIGNMENT
        self._arena = torch.empty(size, dtype=torch.uint8)
        kernels.decoder_use_large_pages.argtypes = (c_void_p, c_int64)
        kernels.decoder_use_large_pages.restype = None
        kernels.decoder_use_large_pages(self._arena.data_ptr(), size)
        self._used = -self._arena.data_ptr() % ALIGNMENT
        self.struct = _Model()

    def keep(self, tensor: Tensor) -> int:
        """The address of a tensor."""
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def pack(self, weight: Tensor) -> int:
        """The address of a weight ``(out, in)`` in panels."""
        laid = panels(weight)
        end = self._used + 2 * laid.numel()
        room = self._arena[self._used : end].view(torch.bfloat16)
        room.copy_(laid.flatten())
        self._used = end
        return room.data_ptr()


def _packed(
    kernels: ctypes.CDLL, weights: Weights, shape: Shape, config: dict[str, Any]
) -> _Packed:
    """Lay the weights out as the kernels read them."""
    width, vocabulary = shape.width, -(-shape.vocabulary // PANEL) * PANEL
    mixed = shape.num_heads * shape.head_dim
    in_layer = 2 * mixed + 2 * shape.num_kv_heads * shape.head_dim + 3 * shape.inner
    packed = _Packed(kernels, width * (shape.num_layers * in_layer + vocabulary))
    layers = (_Layer * shape.num_layers)()
    for number in range(shape.num_layers):
        layers[number] = _layer(packed, weights, shape, f"model.layers.{number}.")
    words = weights("model.embed_tokens.weight", shape.vocabulary, width)
    head = words if shape.is_tied else weights("lm_head.weight", shape.vocabulary, width)
    cosines, sines = angles(config, shape.head_dim)
    packed.struct = _Model(
        width,
        shape.inner,
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.num_layers,
        shape.vocabulary,
        shape.window,
        shape.epsilon,
        layers,
        packed.keep(weights.wide("model.norm.weight", width)),
        None if shape.is_tied else packed.keep(words),
        packed.pack(functional.pad(head, (0, 0, 0, vocabulary - len(head)))),
        packed.keep(cosines),
        packed.keep(sines),
    )
    return packed


def _layer(packed: _Packed, weights: Weights, shape: Shape, name: str) -> _Layer:
    attention, mlp = f"{name}self_attn.", f"{name}mlp."
    width, mixed = shape.width, shape.num_heads * shape.head_dim
    qkv = torch.cat([weights(f"{attention}{part}.weight") for part in shape.qkv])
    gate_up = torch.cat([weights(f"{mlp}{part}.weight") for part in shape.gate_up])
    # Fused or not, their parts must add up. A panel holds 16 gates and their 16 ups, so that it is all
    # that their product needs.
    qkv = qkv.view(mixed + 2 * shape.num_kv_heads * shape.head_dim, width)
    paired = gate_up.view(2, shape.inner // (PANEL // 2), PANEL // 2, width).transpose(0, 1)
    return _Layer(
        packed.keep(weights.wide(f"{name}input_layernorm.weight", width)),
        packed.keep(weights.wide(f"{name}post_attention_layernorm.weight", width)),
        packed.pack(qkv),
        packed.pack(weights(f"{attention}o_proj.weight", width, mixed)),
        packed.pack(paired.reshape(-1, width)),
        packed.pack(weights(f"{mlp}down_proj.weight", width, shape.inner)),
    )
