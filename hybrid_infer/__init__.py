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
    from hybrid_infer.client.streams import (
        AsyncChatStream as AsyncChatStream,
    )
    from hybrid_infer.client.streams import (
        ChatStream as ChatStream,
    )
    from hybrid_infer.client.sync import (
        HybridClient as HybridClient,
    )
    from hybrid_infer.datatypes.chat import (
        ChatChunk as ChatChunk,
    )
    from hybrid_infer.datatypes.chat import (
        ChatCompletion as ChatCompletion,
    )
    from hybrid_infer.datatypes.chat import (
        ChatUsage as ChatUsage,
    )
    from hybrid_infer.datatypes.embeddings import (
        Embeddings as Embeddings,
    )
    from hybrid_infer.datatypes.embeddings import (
        EmbeddingSpace as EmbeddingSpace,
    )
    from hybrid_infer.datatypes.embeddings import (
        EmbeddingUsage as EmbeddingUsage,
    )
    from hybrid_infer.datatypes.parity import (
        ParityReport as ParityReport,
    )
    from hybrid_infer.datatypes.parity import (
        ProbeParity as ProbeParity,
    )
    from hybrid_infer.datatypes.route import (
        Attempt as Attempt,
    )
    from hybrid_infer.datatypes.route import (
        Reason as Reason,
    )
    from hybrid_infer.datatypes.route import (
        Route as Route,
    )
    from hybrid_infer.datatypes.timings import (
        ChatTimings as ChatTimings,
    )
    from hybrid_infer.errors import (
        AllTargetsFailedError as AllTargetsFailedError,
    )
    from hybrid_infer.errors import (
        APIConnectionError as APIConnectionError,
    )
    from hybrid_infer.errors import (
        APITimeoutError as APITimeoutError,
    )
    from hybrid_infer.errors import (
        AuthenticationError as AuthenticationError,
    )
    from hybrid_infer.errors import (
        BulkDataError as BulkDataError,
    )
    from hybrid_infer.errors import (
        CheckpointError as CheckpointError,
    )
    from hybrid_infer.errors import (
        ConfigError as ConfigError,
    )
    from hybrid_infer.errors import (
        ContextLengthError as ContextLengthError,
    )
    from hybrid_infer.errors import (
        DeadlineExceededError as DeadlineExceededError,
    )
    from hybrid_infer.errors import (
        EmbeddingSpaceMismatchError as EmbeddingSpaceMismatchError,
    )
    from hybrid_infer.errors import (
        EngineClosedError as EngineClosedError,
    )
    from hybrid_infer.errors import (
        HybridInferError as HybridInferError,
    )
    from hybrid_infer.errors import (
        InsufficientMemoryError as InsufficientMemoryError,
    )
    from hybrid_infer.errors import (
        InvalidRequestError as InvalidRequestError,
    )
    from hybrid_infer.errors import (
        LocalEngineError as LocalEngineError,
    )
    from hybrid_infer.errors import (
        MissingExtraError as MissingExtraError,
    )
    from hybrid_infer.errors import (
        ModelIntegrityError as ModelIntegrityError,
    )
    from hybrid_infer.errors import (
        ModelLoadingError as ModelLoadingError,
    )
    from hybrid_infer.errors import (
        ModelNotAvailableError as ModelNotAvailableError,
    )
    from hybrid_infer.errors import (
        ModelNotDownloadedError as ModelNotDownloadedError,
    )
    from hybrid_infer.errors import (
        OverloadedError as OverloadedError,
    )
    from hybrid_infer.errors import (
        QuotaExceededError as QuotaExceededError,
    )
    from hybrid_infer.errors import (
        RateLimitError as RateLimitError,
    )
    from hybrid_infer.errors import (
        RemoteProtocolError as RemoteProtocolError,
    )
    from hybrid_infer.errors import (
        RemoteServerError as RemoteServerError,
    )
    from hybrid_infer.errors import (
        StreamInterruptedError as StreamInterruptedError,
    )
    from hybrid_infer.errors import (
        UnverifiableError as UnverifiableError,
    )
    from hybrid_infer.settings import (
        EmbeddingSettings as EmbeddingSettings,
    )
    from hybrid_infer.settings import (
        GenerationSettings as GenerationSettings,
    )
    from hybrid_infer.settings import (
        MemorySettings as MemorySettings,
    )
    from hybrid_infer.settings import (
        RoutingSettings as RoutingSettings,
    )
    from hybrid_infer.settings import (
        ServerSettings as ServerSettings,
    )
    from hybrid_infer.settings import (
        Settings as Settings,
    )
    from hybrid_infer.settings import (
        TrustSettings as TrustSettings,
    )

__version__ = "0.1.0"

_EXPORTS = {
    "APIConnectionError": "hybrid_infer.errors",
    "APITimeoutError": "hybrid_infer.errors",
    "AllTargetsFailedError": "hybrid_infer.errors",
    "AsyncChatStream": "hybrid_infer.client.streams",
    "AsyncHybridClient": "hybrid_infer.client.aio",
    "Attempt": "hybrid_infer.datatypes.route",
    "AuthenticationError": "hybrid_infer.errors",
    "BulkDataError": "hybrid_infer.errors",
    "CheckpointError": "hybrid_infer.errors",
    "ChatChunk": "hybrid_infer.datatypes.chat",
    "ChatCompletion": "hybrid_infer.datatypes.chat",
    "ChatStream": "hybrid_infer.client.streams",
    "ChatTimings": "hybrid_infer.datatypes.timings",
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
    "MissingExtraError": "hybrid_infer.errors",
    "MemorySettings": "hybrid_infer.settings",
    "ModelIntegrityError": "hybrid_infer.errors",
    "ModelLoadingError": "hybrid_infer.errors",
    "ModelNotAvailableError": "hybrid_infer.errors",
    "ModelNotDownloadedError": "hybrid_infer.errors",
    "OverloadedError": "hybrid_infer.errors",
    "ParityReport": "hybrid_infer.datatypes.parity",
    "ProbeParity": "hybrid_infer.datatypes.parity",
    "QuotaExceededError": "hybrid_infer.errors",
    "RateLimitError": "hybrid_infer.errors",
    "Reason": "hybrid_infer.datatypes.route",
    "RemoteProtocolError": "hybrid_infer.errors",
    "RemoteServerError": "hybrid_infer.errors",
    "Route": "hybrid_infer.datatypes.route",
    "RoutingSettings": "hybrid_infer.settings",
    "ServerSettings": "hybrid_infer.settings",
    "Settings": "hybrid_infer.settings",
    "StreamInterruptedError": "hybrid_infer.errors",
    "TrustSettings": "hybrid_infer.settings",
    "UnverifiableError": "hybrid_infer.errors",
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
