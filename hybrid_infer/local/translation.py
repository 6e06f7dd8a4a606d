"""The border to torch and transformers: whatever they raise leaves as one of our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hybrid_infer.errors import (
    HybridInferError,
    InsufficientMemoryError,
    LocalEngineError,
    ModelIntegrityError,
)


@contextmanager
def local_errors(activity: str) -> Iterator[None]:
    """Translate what computing raises.

    Raises:
        InsufficientMemoryError: torch ran out of memory.
        LocalEngineError: anything else.
    """
    try:
        yield
    except HybridInferError:
        raise
    except Exception as error:  # any fault of the engine must reach the caller, typed
        raise as_local_error(activity, error) from error


def as_local_error(activity: str, error: Exception) -> HybridInferError:
    """What computing has raised, as one of our own; its cause is for the caller to set."""
    if isinstance(error, HybridInferError):
        return error
    if isinstance(error, MemoryError):
        return InsufficientMemoryError(f"{activity} ran out of memory")
    if _is_out_of_memory(error):
        return InsufficientMemoryError(f"{activity} ran out of memory: {error}")
    return LocalEngineError(f"{activity} failed: {type(error).__name__}: {error}")


@contextmanager
def loading_errors(model: str) -> Iterator[None]:
    """Translate what loading raises.

    Raises:
        InsufficientMemoryError: torch ran out of memory.
        ModelIntegrityError: anything else: the files are not what they claim to be.
    """
    try:
        yield
    except HybridInferError:
        raise
    except MemoryError:
        raise InsufficientMemoryError(f"loading {model} ran out of memory") from None
    except Exception as error:  # a snapshot may break any part of the loaders
        if _is_out_of_memory(error):
            raise InsufficientMemoryError(f"loading {model} ran out of memory") from error
        raise ModelIntegrityError(
            f"{model} could not be loaded: {type(error).__name__}: {error}"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Torch's own error on a GPU; on a CPU its allocator raises a bare RuntimeError."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def is_device_lost(error: HybridInferError) -> bool:
    """Whether CUDA reported an error after which its context answers nothing any more."""
    cause = error.__cause__
    return type(cause).__name__ == "AcceleratorError" or "CUDA error" in str(cause)
