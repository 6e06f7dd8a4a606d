"""From a model to the folder of its files. Files only: no network, no tensors."""

from __future__ import annotations

from pathlib import Path

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError, ModelNotDownloadedError
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.snapshots.folders import (
    cache_root,
    hub_cache_dir,
    offline_variable,
    repo_folder,
)
from hybrid_infer.snapshots.integrity import check_complete, check_inside

__all__ = [
    "cache_root",
    "find_snapshot",
    "hub_cache_dir",
    "main_revision",
    "observed_revision",
    "offline_variable",
    "revision_folder",
    "snapshot_folder",
]


def find_snapshot(spec: ModelSpec) -> Path:
    """The folder with `spec`'s files, complete enough to be loaded.

    A pinned model resolves to its commit's folder, an unpinned one to the commit that the cache
    calls ``main``. A seeded tiny model is written on the spot if it is not there yet.

    Raises:
        ModelNotDownloadedError: it is not on this machine; the message names the command.
        ModelIntegrityError: it is there, but files are missing or damaged.
    """
    if spec.repo.startswith(TINY_PREFIX):
        from hybrid_infer.snapshots.tiny import ensure_tiny

        return ensure_tiny(spec)
    folder = snapshot_folder(spec)
    if folder is None:
        raise ModelNotDownloadedError(
            f"{spec.repo} ({_revision_words(spec)}) is not in {hub_cache_dir()}; "
            f"run: hybrid-infer pull {spec.name}{_licence_words(spec)}"
        )
    check_inside(folder, hub_cache_dir())
    try:
        check_complete(spec.task, folder)
    except ModelIntegrityError as error:
        raise ModelIntegrityError(f"{error.message}; run: hybrid-infer pull {spec.name}") from None
    return folder


def snapshot_folder(spec: ModelSpec) -> Path | None:
    """The folder of `spec`'s commit in the Hub's cache, or None if it is not there."""
    return revision_folder(spec.repo, spec.revision)


def revision_folder(name: str, revision: str | None) -> Path | None:
    """The folder of a repository's commit, or of the one that the cache calls ``main``."""
    repo = repo_folder(name, hub_cache_dir())
    revision = revision or main_revision(repo)
    # The name becomes a path: anything but a plain commit id stays outside.
    if revision is None or not revision.isalnum():
        return None
    folder = repo / "snapshots" / revision
    return folder if folder.is_dir() else None


def main_revision(repo: Path) -> str | None:
    """The commit that the cache of a repository calls ``main``, if it names any."""
    try:
        return (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _licence_words(spec: ModelSpec) -> str:
    link = f"https://huggingface.co/{spec.repo}"
    return f" (gated: accept its licence at {link} first)" if spec.gated else ""


def _revision_words(spec: ModelSpec) -> str:
    return f"commit {spec.revision[:12]}" if spec.revision else "branch main"


def observed_revision(folder: Path) -> str:
    """The commit that a snapshot's folder is named after."""
    return folder.name
