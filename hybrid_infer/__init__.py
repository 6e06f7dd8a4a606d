"""hybrid_infer: the same model, remote or local, one call that survives its remote.

    from hybrid_infer import HybridClient

    client = HybridClient()
    client.embed(["a", "b"]).vectors
    client.chat_completion("Explain low latency.").choices[0].message.content

Importing this package loads nothing else of it: every public name below is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_infer.client.aio import (
        AsyncHybridClient as AsyncHybridClient,
    )
    from hybrid_infer.client.sync import (
        HybridClient as HybridClient,
    )
    from hybrid_infer.datatypes.chat import (
        ChatChunk as ChatChunk,
        ChatCompletion as ChatCompletion,
        ChatUsage as ChatUsage,
    )
    from hybrid_infer.datatypes.embeddings import (
        EmbeddingSpace as EmbeddingSpace,
        EmbeddingUsage as EmbeddingUsage,
        Embeddings as Embeddings,
    )
    from hybrid_infer.datatypes.route import (
        Attempt as Attempt,
        Reason as Reason,
        Route as Route,
    )
    from hybrid_infer.errors import (
        APIConnectionError as APIConnectionError,
        APITimeoutError as APITimeoutError,
        AllTargetsFailedError as AllTargetsFailedError,
        AuthenticationError as AuthenticationError,
        ConfigError as ConfigError,
        ContextLengthError as ContextLengthError,
        DeadlineExceededError as DeadlineExceededError,
        EmbeddingSpaceMismatchError as EmbeddingSpaceMismatchError,
        EngineClosedError as EngineClosedError,
        HybridInferError as HybridInferError,
        InsufficientMemoryError as InsufficientMemoryError,
        InvalidRequestError as InvalidRequestError,
        LocalEngineError as LocalEngineError,
        ModelIntegrityError as ModelIntegrityError,
        ModelLoadingError as ModelLoadingError,
        ModelNotAvailableError as ModelNotAvailableError,
        ModelNotDownloadedError as ModelNotDownloadedError,
        OverloadedError as OverloadedError,
        QuotaExceededError as QuotaExceededError,
        RateLimitError as RateLimitError,
        RemoteProtocolError as RemoteProtocolError,
        RemoteServerError as RemoteServerError,
        StreamInterruptedError as StreamInterruptedError,
    )
    from hybrid_infer.settings import (
        EmbeddingSettings as EmbeddingSettings,
        GenerationSettings as GenerationSettings,
        MemorySettings as MemorySettings,
        RoutingSettings as RoutingSettings,
        Settings as Settings,
    )

__version__ = "0.1.0"

_EXPORTS = {
    "APIConnectionError": "hybrid_infer.errors",
    "APITimeoutError": "hybrid_infer.errors",
    "AllTargetsFailedError": "hybrid_infer.errors",
    "AsyncHybridClient": "hybrid_infer.client.aio",
    "Attempt": "hybrid_infer.datatypes.route",
    "AuthenticationError": "hybrid_infer.errors",
    "ChatChunk": "hybrid_infer.datatypes.chat",
    "ChatCompletion": "hybrid_infer.datatypes.chat",
    "ChatUsage": "hybrid_infer.datatypes.chat",
    "ConfigError": "hybrid_infer.errors",
    "ContextLengthError": "hybrid_infer.errors",
    "DeadlineExceededError": "hybrid_infer.errors",
    "EmbeddingSettings": "hybrid_infer.settings",
    "EmbeddingSpace": "hybrid_infer.datatypes.embeddings",
    "EmbeddingSpaceMismatchError": "hybrid_infer.errors",
    "EmbeddingUsage": "hybrid_infer.datatypes.embeddings",
    "Embeddings": "hybrid_infer.datatypes.embeddings",
    "EngineClosedError": "hybrid_infer.errors",
    "GenerationSettings": "hybrid_infer.settings",
    "HybridClient": "hybrid_infer.client.sync",
    "HybridInferError": "hybrid_infer.errors",
    "InsufficientMemoryError": "hybrid_infer.errors",
    "InvalidRequestError": "hybrid_infer.errors",
    "LocalEngineError": "hybrid_infer.errors",
    "MemorySettings": "hybrid_infer.settings",
    "ModelIntegrityError": "hybrid_infer.errors",
    "ModelLoadingError": "hybrid_infer.errors",
    "ModelNotAvailableError": "hybrid_infer.errors",
    "ModelNotDownloadedError": "hybrid_infer.errors",
    "OverloadedError": "hybrid_infer.errors",
    "QuotaExceededError": "hybrid_infer.errors",
    "RateLimitError": "hybrid_infer.errors",
    "Reason": "hybrid_infer.datatypes.route",
    "RemoteProtocolError": "hybrid_infer.errors",
    "RemoteServerError": "hybrid_infer.errors",
    "Route": "hybrid_infer.datatypes.route",
    "RoutingSettings": "hybrid_infer.settings",
    "Settings": "hybrid_infer.settings",
    "StreamInterruptedError": "hybrid_infer.errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]  # noqa: PLE0604 - the names come from one table


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
