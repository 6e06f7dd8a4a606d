"""How snapshots get here: from the Hub, or from a folder. The one border to huggingface_hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    HybridInferError,
    LocalEngineError,
    ModelIntegrityError,
    ModelNotAvailableError,
)
from hybrid_infer.snapshots.folders import hub_cache_dir, offline_variable, repo_folder
from hybrid_infer.snapshots.resolve import find_snapshot, snapshot_folder

# Tensors as safetensors, tokenizers and configurations; never pickles, never code.
ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
IGNORED = ("onnx/*", "openvino/*", "original/*", "*.bin", "*.py", "*.pt", "*.h5", "*.gguf")


def pull(
    spec: ModelSpec,
    *,
    token: str | None = None,
    progress: bool = True,
    source: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch a model into the Hub's cache.

    Args:
        spec: what to fetch; pinned or ``main``.
        token: the Hub key; sent to Hugging Face's hosts and loopback only.
        progress: whether progress bars are drawn.
        source: a local folder to stage instead.
        endpoint: the Hub's URL; None: HF_ENDPOINT, else huggingface.co.

    Returns:
        The snapshot's folder.

    Raises:
        ModelNotAvailableError: gated or unknown; the message has the link.
        AuthenticationError: the key was refused.
        APIConnectionError: the Hub cannot be reached, or an offline variable is set.
        ModelIntegrityError: what arrived is not a usable model.
        LocalEngineError: the disk refused.
    """
    if source is not None:
        return stage(source, spec)
    variable = offline_variable()
    if variable is not None:
        raise APIConnectionError(
            f"{variable} is set, so nothing is downloaded; unset it to fetch {spec.repo}"
        )
    try:
        _download(spec, token, endpoint, progress=progress)
    except HybridInferError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the Hub client raises must leave as ours
        raise _translated(spec, error) from None
    return find_snapshot(spec)


def _download(spec: ModelSpec, token: str | None, endpoint: str | None, *, progress: bool) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    if not progress:
        disable_progress_bars()
    try:
        snapshot_download(
            spec.repo,
            revision=spec.revision,
            cache_dir=hub_cache_dir(),
            token=token if token and _may_have_token(endpoint) else False,
            endpoint=endpoint,
            allow_patterns=list(ALLOWED),
            ignore_patterns=list(IGNORED),
        )
    finally:
        if not progress:
            enable_progress_bars()


def _may_have_token(endpoint: str | None) -> bool:
    from urllib.parse import urlsplit

    from hybrid_infer.registry import is_loopback

    url = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    host = urlsplit(url).hostname or ""
    return host == "huggingface.co" or host.endswith(".huggingface.co") or is_loopback(url)


def _translated(spec: ModelSpec, error: Exception) -> HybridInferError:
    from huggingface_hub import errors as hub

    link = f"https://huggingface.co/{spec.repo}"
    if isinstance(error, hub.GatedRepoError):
        return ModelNotAvailableError(
            f"{spec.repo} is gated: accept its licence at {link} and use a key of that account"
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.RevisionNotFoundError):
        return ModelNotAvailableError(
            f"{spec.repo} does not exist at this revision, or is private: see {link}"
        )
    status = _status(error)
    if status in (401, 403):
        return AuthenticationError(f"the Hub refused the key for {spec.repo} (HTTP {status})")
    if isinstance(error, hub.HfHubHTTPError):
        return APIConnectionError(f"the Hub answered HTTP {status} for {spec.repo}")
    if isinstance(error, OSError) and error.errno is not None and not _is_network(error):
        return LocalEngineError(f"{spec.repo} could not be stored: {error.strerror}")
    return APIConnectionError(
        f"the Hub could not be reached for {spec.repo} ({type(error).__name__})"
    )


def _status(error: Exception) -> int | None:
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_network(error: OSError) -> bool:
    return isinstance(error, ConnectionError | TimeoutError)


def stage(directory: Path, spec: ModelSpec) -> Path:
    """Place a local model folder into the Hub's cache as `spec`'s snapshot.

    Files are hard-linked where the file system allows it, else copied. The folder appears whole
    or not at all, and staging it again changes nothing.

    Args:
        directory: a folder in the layout of a repository.
        spec: what it is to be found as; unpinned, its revision becomes a hash of its contents.

    Raises:
        ModelIntegrityError: the folder holds no usable model.
    """
    if not directory.is_dir():
        raise ModelIntegrityError(f"{directory} is not a folder")
    if spec.revision is not None and snapshot_folder(spec) is not None:
        return find_snapshot(spec)
    files = _allowed_files(directory)
    if not files:
        raise ModelIntegrityError(f"{directory} holds no model files")
    repo = repo_folder(spec.repo, hub_cache_dir())
    revision = spec.revision or _content_revision(directory, files)
    target = repo / "snapshots" / revision
    if not target.is_dir():
        _place(directory, files, target)
    if spec.revision is None:
        _write_main(repo, revision)
    return find_snapshot(spec)


def _allowed_files(directory: Path) -> list[Path]:
    return sorted(
        file.relative_to(directory)
        for pattern in ALLOWED
        for file in directory.rglob(pattern)
        if file.is_file() and not any(file.relative_to(directory).match(p) for p in IGNORED)
    )


def _content_revision(directory: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.as_posix().encode())
        with (directory / file).open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:40]


def _place(directory: Path, files: list[Path], target: Path) -> None:
    """Fill a folder beside the target and rename it: another process sees all or nothing."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for file in files:
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy((directory / file).resolve(), draft / file)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same files
                raise
    except OSError as error:
        raise LocalEngineError(f"{target} could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_main(repo: Path, revision: str) -> None:
    refs = repo / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    draft = refs / f".main.{uuid.uuid4().hex}"
    draft.write_text(revision, encoding="utf-8")
    draft.replace(refs / "main")
