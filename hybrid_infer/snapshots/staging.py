"""A local model folder, placed into the Hub's cache as if it had been downloaded."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import uuid
from pathlib import Path

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import InvalidRequestError, LocalEngineError, ModelIntegrityError
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.snapshots.drafts import place_whole
from hybrid_infer.snapshots.folders import hub_cache_dir, repo_folder
from hybrid_infer.snapshots.integrity import check_complete, check_inside
from hybrid_infer.snapshots.resolve import find_snapshot

# Tensors as safetensors, tokenizers and configurations; never pickles, never code.
ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
IGNORED = (
    *("onnx/*", "openvino/*", "original/*", "consolidated*.safetensors"),  # the same weights again
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.onnx", "*.gguf", "*.py"),
)


def stage(directory: Path, spec: ModelSpec) -> Path:
    """Place a local model folder into the Hub's cache as `spec`'s snapshot.

    Files are hard-linked where the file system allows it, else copied. The folder appears whole
    or not at all; staging it again changes nothing, and replaces a damaged snapshot.

    Args:
        directory: a folder in the layout of a repository.
        spec: what it is to be found as; unpinned, its revision becomes a hash of its contents.

    Raises:
        ModelIntegrityError: the folder holds no usable model.
        InvalidRequestError: `spec` is a seeded model, which is written and never staged.
        LocalEngineError: the disk refused.
    """
    if spec.repo.startswith(TINY_PREFIX):
        raise InvalidRequestError(
            f"{spec.repo} is seeded and takes no files from elsewhere", argument="source"
        )
    if not directory.is_dir():
        raise ModelIntegrityError(f"{directory} is not a folder")
    repo = repo_folder(spec.repo, hub_cache_dir())
    if spec.revision is not None and _is_usable(spec, repo / "snapshots" / spec.revision):
        return find_snapshot(spec)
    check_complete(spec.task, directory)
    files = allowed_files(directory)
    revision = spec.revision or _content_revision(directory, files)
    target = repo / "snapshots" / revision
    if not _is_usable(spec, target):
        place_whole(
            target,
            lambda draft: _link_all(directory, files, draft),
            is_usable=lambda found: _is_usable(spec, found),
        )
    if spec.revision is None:
        _write_main(repo, revision)
    return find_snapshot(spec)


def is_allowed(name: str) -> bool:
    """Whether a file of a repository is one that belongs here.

    Args:
        name: its path with forward slashes; matched as the Hub's own patterns are.
    """
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED
    )


def allowed_files(directory: Path) -> list[Path]:
    """The files below `directory` that belong into a snapshot, as relative paths in order."""
    below = (file.relative_to(directory) for file in directory.rglob("*") if file.is_file())
    return sorted(file for file in below if is_allowed(file.as_posix()))


def _is_usable(spec: ModelSpec, folder: Path) -> bool:
    try:
        check_inside(folder, hub_cache_dir())
        check_complete(spec.task, folder)
    except ModelIntegrityError:
        return False
    return True


def _content_revision(directory: Path, files: list[Path]) -> str:
    """A commit-like name for these files: the same contents, the same name."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.as_posix().encode() + b"\0")
        try:
            with (directory / file).open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise ModelIntegrityError(
                f"{directory / file} cannot be read: {error.strerror}"
            ) from None
    return digest.hexdigest()[:40]


def _link_all(directory: Path, files: list[Path], draft: Path) -> None:
    for file in files:
        (draft / file).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy((directory / file).resolve(), draft / file)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_main(repo: Path, revision: str) -> None:
    refs = repo / "refs"
    draft = refs / f".main.{uuid.uuid4().hex}"
    try:
        refs.mkdir(parents=True, exist_ok=True)
        draft.write_text(revision, encoding="utf-8")
        draft.replace(refs / "main")
    except OSError as error:
        raise LocalEngineError(f"{refs / 'main'} could not be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
