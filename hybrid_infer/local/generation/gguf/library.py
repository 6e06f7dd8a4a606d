"""The border to llama.cpp, through the C interface that llama-cpp-python exposes."""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections import deque
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ConfigError, ModelIntegrityError

logger = logging.getLogger("hybrid_infer")

ALL_LAYERS = -1
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_errors: deque[str] = deque(maxlen=3)


def check_installed(name: str) -> None:
    """Refuse to go on without llama-cpp-python.

    Args:
        name: the model, for the message.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("llama_cpp") is None:
        raise ConfigError(
            f"{name} names a GGUF file, which needs llama-cpp-python: "
            'pip install "hybrid-infer[gguf]" (it compiles for some minutes)'
        )


@cache
def library() -> Any:
    """llama.cpp, ready for use; what it logs goes to this library's logger."""
    import llama_cpp

    llama_cpp.llama_log_set(_log_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache  # llama.cpp keeps the address for ever
def _log_callback(llama_cpp: Any) -> Any:
    def log(level: int, text: bytes, _data: object) -> None:
        line = text.decode(errors="replace").strip()
        if level == _ERROR_LEVEL and line:
            _errors.append(line)
        if line:
            logger.debug("llama.cpp: %s", line)

    return llama_cpp.llama_log_callback(log)


def offloads() -> bool:
    """Whether this build of llama.cpp can compute on a GPU that is here."""
    return bool(library().llama_supports_gpu_offload())


def gguf_device(device: str) -> str:
    """Where a GGUF file is computed.

    Args:
        device: as the client names it.

    Raises:
        ConfigError: a GPU was named, and this build of llama.cpp has none.
    """
    if device in ("auto", "cpu"):
        return "cuda" if device == "auto" and offloads() else "cpu"
    if not offloads():
        raise ConfigError(
            f"device={device!r}: this build of llama-cpp-python computes on the CPU alone; "
            "build it for the GPU (CMAKE_ARGS=-DGGML_CUDA=on), or use device='cpu'"
        )
    return device


class GgufModel:
    """The weights and the vocabulary of a file; freed with the last reference to it.

    Args:
        path: the file.
        num_gpu_layers: layers that go to the GPU; `ALL_LAYERS` for all.

    Attributes:
        pointer: llama.cpp's ``llama_model``.
        vocab: its ``llama_vocab``.

    Raises:
        ModelIntegrityError: llama.cpp cannot load it; the message has its own words.
    """

    def __init__(self, path: Path, num_gpu_layers: int = 0) -> None:
        llama = library()
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = num_gpu_layers
        # llama.cpp's AMX kernels read a tile configuration that compilers optimise away, which
        # ends the process (ggml-org/llama.cpp issue 20824, pull request 26954).
        parameters.use_extra_bufts = b"AMX_INT8 = 1" not in llama.llama_print_system_info()
        _errors.clear()
        self.pointer = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.pointer:
            raise ModelIntegrityError(f"llama.cpp cannot load {path}: {'; '.join(_errors)}")
        _freed_with(self, llama.llama_model_free, self.pointer)
        self.vocab = llama.llama_model_get_vocab(self.pointer)

    @property
    def chat_template(self) -> str | None:
        """The template in the file's metadata, if there is one."""
        template: bytes | None = library().llama_model_chat_template(self.pointer, None)
        return None if template is None else template.decode()


class Context:
    """Keys and values of several sequences in one buffer, and what computes them.

    Args:
        model: its weights.
        num_sequences: sequences.
        num_tokens: tokens that all of them together have room for.
        batch_tokens: tokens of one ``llama_decode`` at most.
        num_threads: threads that compute.

    Attributes:
        pointer: llama.cpp's ``llama_context``.
        memory: its ``llama_memory``.

    Raises:
        MemoryError: llama.cpp got no memory for it.
    """

    def __init__(
        self,
        model: GgufModel,
        num_sequences: int,
        num_tokens: int,
        batch_tokens: int,
        num_threads: int,
    ) -> None:
        llama = library()
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = num_tokens, num_sequences
        # A buffer for each sequence would be faster for many, but could not be copied into a
        # context with more of them.
        parameters.kv_unified = True
        parameters.n_batch = parameters.n_ubatch = batch_tokens
        parameters.n_threads = parameters.n_threads_batch = num_threads
        # As llama-cpp-python has it. With flash attention the sums differ enough for other words.
        parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.no_perf = True
        self.pointer = llama.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise MemoryError
        self._free = _freed_with(self, llama.llama_free, self.pointer, model)
        self.memory = llama.llama_get_memory(self.pointer)

    def copy_sequence(self, sequence: int, target: Context) -> None:
        """Let `target` hold what this context holds of a sequence."""
        llama = library()
        size = llama.llama_state_seq_get_size(self.pointer, sequence)
        state = (ctypes.c_uint8 * size)()
        llama.llama_state_seq_get_data(self.pointer, state, size, sequence)
        if not llama.llama_state_seq_set_data(target.pointer, state, size, sequence):
            raise RuntimeError("llama.cpp could not copy a sequence")

    def free(self) -> None:
        """Give its memory back now."""
        self._free()


def _freed_with(
    owner: object, free: Any, pointer: Any, needed: object = None
) -> weakref.finalize[Any, Any]:
    """Free a pointer when `owner` goes, and keep what is `needed` for that until then."""

    def end(_needed: object) -> None:
        free(pointer)

    finalizer = weakref.finalize(owner, end, needed)
    finalizer.atexit = False  # a thread may still compute, and the process's end frees it all
    return finalizer
