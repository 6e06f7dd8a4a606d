"""How snapshots get here from the Hub. The one border to huggingface_hub."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    HybridInferError,
    InvalidRequestError,
    LocalEngineError,
    ModelIntegrityError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.registry.urls import TOKENS_PAGE, is_loopback
from hybrid_infer.snapshots.folders import hub_cache_dir, offline_variable
from hybrid_infer.snapshots.gguf_files import find_gguf
from hybrid_infer.snapshots.gguf_header import gguf_header
from hybrid_infer.snapshots.reading import read_json
from hybrid_infer.snapshots.resolve import find_snapshot, snapshot_folder
from hybrid_infer.snapshots.staging import ALLOWED, IGNORED, stage
from hybrid_infer.snapshots.tensors import safetensors_header

__all__ = ["pull", "stage"]

HUB = "https://huggingface.co"
_STORAGE_ERRORS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
        *(errno.EFBIG, errno.ELOOP),
    }
)


def pull(
    spec: ModelSpec,
    *,
    token: str | None = None,
    progress: bool = True,
    source: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch a model into the Hub's cache; what is there and undamaged is not fetched again.

    Args:
        spec: what to fetch; pinned or ``main``. A seeded model is written, not fetched.
        token: the Hub key; sent to Hugging Face's hosts over https, and to loopback, only.
        progress: whether progress bars are drawn.
        source: a local folder to stage instead.
        endpoint: the Hub's URL; None: HF_ENDPOINT, else huggingface.co.

    Returns:
        The snapshot's folder, or the GGUF file.

    Raises:
        ModelNotAvailableError: gated or unknown; the message has the link.
        AuthenticationError: the key was refused.
        RateLimitError: the Hub answered 429.
        RemoteServerError: the Hub failed.
        APIConnectionError: the Hub cannot be reached, or an offline variable is set.
        ModelIntegrityError: what arrived is not a usable model.
        LocalEngineError: the disk refused.
    """
    if spec.gguf is not None:
        return _pull_gguf(
            spec, spec.gguf, token, progress=progress, source=source, endpoint=endpoint
        )
    if source is not None:
        return stage(source, spec)
    if spec.repo.startswith(TINY_PREFIX):
        return find_snapshot(spec)
    url = _hub_url(spec.repo, endpoint)
    _drop_damaged(spec)
    _fetch(spec, ALLOWED, IGNORED, token, url, progress=progress)
    return find_snapshot(spec)


def _pull_gguf(
    spec: ModelSpec,
    gguf: GgufFile,
    token: str | None,
    *,
    progress: bool,
    source: Path | None,
    endpoint: str | None,
) -> Path:
    """Fetch the one file that an alias names."""
    if source is not None:
        raise InvalidRequestError(
            f"{spec.name} names a GGUF file; to use another, name its path there", argument="source"
        )
    if gguf.repo is None:
        return find_gguf(spec, gguf)
    url = _hub_url(gguf.repo, endpoint)
    holder = replace(spec, repo=gguf.repo, revision=gguf.revision)
    with suppress(ModelNotDownloadedError):
        file = find_gguf(spec, gguf)
        try:
            gguf_header(file)
        except ModelIntegrityError:
            _remove(file, Path(os.path.realpath(hub_cache_dir())))
    _fetch(holder, [glob.escape(gguf.file)], (), token, url, progress=progress)
    try:
        file = find_gguf(spec, gguf)
    except ModelNotDownloadedError:
        raise ModelNotAvailableError(
            f"{gguf.repo} has no file {gguf.file}: see {HUB}/{gguf.repo}/tree/main"
        ) from None
    gguf_header(file)
    return file


def _hub_url(repo: str, endpoint: str | None) -> str:
    """Where the Hub is; an error where it must not be asked."""
    variable = offline_variable()
    if variable is not None:
        raise APIConnectionError(
            f"{variable} is set, so nothing is downloaded; unset it to fetch {repo}"
        )
    return (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _fetch(
    spec: ModelSpec,
    allowed: Sequence[str],
    ignored: Sequence[str],
    token: str | None,
    url: str,
    *,
    progress: bool,
) -> None:
    """Download those files of a repository that match; the Hub's errors leave as ours."""
    key = token if token and _may_have_token(url) else None
    failure: HybridInferError | None = None
    try:
        _download(spec, allowed, ignored, key, url, progress=progress)
    except Exception as error:  # noqa: BLE001 - whatever the Hub client raises must leave as ours
        failure = _translated(spec, error)
    if failure is not None:
        # Raised out here: as a context, the Hub's error would carry its request with the key.
        raise failure


def _download(
    spec: ModelSpec,
    allowed: Sequence[str],
    ignored: Sequence[str],
    token: str | None,
    url: str,
    *,
    progress: bool,
) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        spec.repo,
        revision=spec.revision,
        cache_dir=hub_cache_dir(),
        # False, unlike None, also keeps a saved login from being sent to any other host.
        token=token or False,
        endpoint=url,
        allow_patterns=list(allowed),
        ignore_patterns=list(ignored),
        tqdm_class=None if progress else _silent_bar(),
    )


def _silent_bar() -> Any:
    """A progress bar that never shows; switching the Hub's bars off would do so for everyone."""
    from huggingface_hub.utils.tqdm import tqdm

    visible: Any = tqdm

    def start(bar: Any, *args: Any, **options: Any) -> None:
        visible.__init__(bar, *args, **{**options, "disable": True})

    return type("SilentBar", (visible,), {"__init__": start})


def _may_have_token(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_hugging_face = host == "huggingface.co" or host.endswith(".huggingface.co")
    return (is_hugging_face and parts.scheme == "https") or is_loopback(url)


def _drop_damaged(spec: ModelSpec) -> None:
    """Remove damaged files of a snapshot, or the Hub client would take them as fetched."""
    folder = snapshot_folder(spec)
    if folder is None:
        return
    cache = Path(os.path.realpath(hub_cache_dir()))
    for file in folder.rglob("*"):
        if file.suffix not in {".safetensors", ".json"} or file.is_dir():
            continue
        try:
            safetensors_header(file) if file.suffix == ".safetensors" else read_json(file)
        except ModelIntegrityError:
            _remove(file, cache)


def _remove(file: Path, cache: Path) -> None:
    """Remove a link and, within the cache, every link and blob behind it."""
    while cache in (path := Path(os.path.realpath(file.parent)) / file.name).parents:
        behind = file.parent / file.readlink() if file.is_symlink() else None
        path.unlink(missing_ok=True)
        if behind is None:
            return
        file = behind


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
