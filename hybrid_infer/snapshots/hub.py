"""The border to huggingface_hub: whatever it raises leaves as one of our own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    HybridInferError,
    InvalidRequestError,
    LocalEngineError,
    ModelNotAvailableError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.registry.urls import TOKENS_PAGE, is_loopback
from hybrid_infer.snapshots.folders import hub_cache_dir, offline_variable

HUB = "https://huggingface.co"
_AnswerT = TypeVar("_AnswerT")
_STORAGE_ERRORS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
        *(errno.EFBIG, errno.ELOOP),
    }
)


def hub_url(repo: str, endpoint: str | None) -> str:
    """Where the Hub is.

    Raises:
        APIConnectionError: an offline variable is set, so it must not be asked.
    """
    variable = offline_variable()
    if variable is not None:
        raise APIConnectionError(
            f"{variable} is set, so nothing is downloaded; unset it to fetch {repo}"
        )
    return (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def token_for(url: str, token: str | None) -> str | Literal[False]:
    """The key to send to `url`: Hugging Face's hosts over https and loopback get it, no other does.

    Returns:
        The key, or False, which unlike None also keeps a saved login from being sent.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_hugging_face = host == "huggingface.co" or host.endswith(".huggingface.co")
    if (is_hugging_face and parts.scheme == "https") or is_loopback(url):
        return token or False
    return False


def asked(spec: ModelSpec, ask: Callable[[], _AnswerT]) -> _AnswerT:
    """What the Hub's client answers; what it raises leaves as one of our errors.

    Args:
        spec: what it is asked about.
        ask: asks.

    Raises:
        HybridInferError: without a trace of the Hub's own error, whose request holds the key.
    """
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever the Hub client raises must leave as ours
        failure = _translated(spec, error)
    # Raised out here: as a context, the Hub's error would carry its request with the key.
    raise failure


def _translated(spec: ModelSpec, error: Exception) -> HybridInferError:
    """One of our errors, without the text of the Hub's, which may quote requests."""
    from huggingface_hub import errors as hub

    while isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, HybridInferError):
        return error
    if isinstance(error, hub.OfflineModeIsEnabled):
        return APIConnectionError(
            "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE was set when huggingface_hub was imported; "
            f"start again without it to fetch {spec.repo}"
        )
    if isinstance(error, hub.HFValidationError):
        return InvalidRequestError(f"{spec.repo!r} is no repository id", argument="model")
    if isinstance(error, hub.HfHubHTTPError):
        return _of_answer(spec, error)
    if _is_storage(error):
        reason = getattr(error, "strerror", None) or type(error).__name__
        return LocalEngineError(f"{spec.repo} could not be stored in {hub_cache_dir()}: {reason}")
    return APIConnectionError(
        f"the Hub could not be reached for {spec.repo} ({type(error).__name__})"
    )


def _of_answer(spec: ModelSpec, error: Any) -> HybridInferError:
    from huggingface_hub import errors as hub

    link = f"{HUB}/{spec.repo}"
    if isinstance(error, hub.GatedRepoError):
        return ModelNotAvailableError(
            f"{spec.repo} is gated: accept its licence at {link} and use a key of that account "
            f"({TOKENS_PAGE})"
        )
    if isinstance(error, hub.DisabledRepoError):
        return ModelNotAvailableError(f"the Hub has disabled {spec.repo}: see {link}")
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotAvailableError(f"{spec.repo} has no revision {spec.revision}: see {link}")
    status = int(error.response.status_code)
    if isinstance(error, hub.RepositoryNotFoundError) or status in (404, 410):
        return ModelNotAvailableError(
            f"{spec.repo} does not exist, or is private and needs a key: see {link}"
        )
    return _of_status(spec, status)


def _of_status(spec: ModelSpec, status: int) -> HybridInferError:
    said = f"the Hub answered HTTP {status} for {spec.repo}"
    if status in (401, 403):
        return AuthenticationError(
            f"the Hub refused the key for {spec.repo} (HTTP {status}): {TOKENS_PAGE}"
        )
    if status == 429:  # noqa: PLR2004 - an HTTP status
        return RateLimitError(said)
    if status >= 500:  # noqa: PLR2004 - an HTTP status
        return RemoteServerError(said, status=status)
    return APIConnectionError(said)


def _is_storage(error: Exception) -> bool:
    """Whether the disk, or the lock of another process's download, stopped this one."""
    return (
        (isinstance(error, OSError) and error.errno in _STORAGE_ERRORS)
        or hasattr(error, "lock_file")  # filelock.Timeout, which is a TimeoutError
        or "No space left on device" in str(error)  # hf_xet says so in a RuntimeError
    )
