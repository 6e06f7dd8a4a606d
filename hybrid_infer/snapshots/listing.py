"""What the Hub says that a repository holds at a commit: sizes and hashes, before a byte is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.snapshots.digests import digests_of, git_blob_id, size_of
from hybrid_infer.snapshots.hub import asked
from hybrid_infer.snapshots.lock import LockedFile, is_file_name, is_revision, is_sha256

SPARE_FRACTION = 0.05  # of what is fetched: directories, and what else writes meanwhile


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as the Hub lists it.

    Attributes:
        size: in bytes.
        sha256: of its contents; None for a small file, which git itself holds.
        blob_id: git's name for its contents (for a large file, for the pointer in its place).
    """

    size: int
    sha256: str | None
    blob_id: str

    @property
    def blob_name(self) -> str:
        """What its contents are called in the Hub's cache."""
        return self.sha256 or self.blob_id


@dataclass(frozen=True, slots=True)
class HubListing:
    """A repository at a commit.

    Attributes:
        revision: the commit, 40 hex digits.
        files: every file, by its path.
    """

    revision: str
    files: Mapping[str, HubFile]


def list_repository(spec: ModelSpec, url: str, token: str | Literal[False]) -> HubListing:
    """Ask the Hub what `spec`'s repository holds at its pin, or on ``main``.

    Args:
        spec: what to look for.
        url: the Hub's.
        token: the key, or False.

    Raises:
        HybridInferError: see `pull`.
    """
    revision, files = asked(spec, lambda: _listed(spec, url, token))
    if not is_revision(revision):
        raise ModelIntegrityError(f"the Hub says that {spec.repo} is at {revision!r}, no commit")
    for name, file in files.items():
        if not is_file_name(name):
            raise ModelIntegrityError(
                f"the Hub lists {name!r} in {spec.repo}, which is no file name"
            )
        if not _is_hashed(file):
            raise ModelIntegrityError(f"the Hub lists {name} of {spec.repo} without a hash")
    return HubListing(revision, files)


def _is_hashed(file: HubFile) -> bool:
    """Whether what will become a file's name is a hash and nothing else."""
    return is_revision(file.blob_id) and (file.sha256 is None or is_sha256(file.sha256))


def _listed(
    spec: ModelSpec, url: str, token: str | Literal[False]
) -> tuple[str, dict[str, HubFile]]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=url, token=token)
    revision = spec.revision or str(api.repo_info(spec.repo, revision="main").sha)
    entries = api.list_repo_tree(spec.repo, recursive=True, revision=revision)
    files = {
        entry.path: HubFile(
            entry.size if entry.lfs is None else entry.lfs.size,
            None if entry.lfs is None else entry.lfs.sha256,
            entry.blob_id,
        )
        for entry in entries
        if isinstance(entry, RepoFile)
    }
    return revision, files


def damaged(folder: Path, files: Mapping[str, HubFile]) -> list[str]:
    """Those of `files` that are in `folder` with other contents than the Hub lists."""
    here = {name: folder / name for name in files if (folder / name).is_file()}
    digests = digests_of(path for name, path in here.items() if files[name].sha256)
    return [name for name, path in here.items() if not _is_whole(path, files[name], digests)]


def _is_whole(path: Path, file: HubFile, digests: Mapping[Path, str]) -> bool:
    if size_of(path) != file.size:
        return False
    if file.sha256 is not None:
        return digests[path] == file.sha256
    return git_blob_id(path) == file.blob_id


def as_locked(folder: Path, files: Mapping[str, HubFile]) -> dict[str, LockedFile]:
    """What models.lock is to list for those of `files` that are in `folder`, found undamaged."""
    here = {name: folder / name for name in files if (folder / name).is_file()}
    digests = digests_of(here.values())
    return {name: LockedFile(files[name].size, digests[path]) for name, path in here.items()}


def check_room(folder: Path, num_bytes: int) -> None:
    """Refuse a download that the disk has no room for.

    Args:
        folder: where it goes; it need not exist yet.
        num_bytes: what is to be written.

    Raises:
        LocalEngineError: there is too little room; the message has both sizes.
    """
    wanted, free = int(num_bytes * (1 + SPARE_FRACTION)), free_bytes(folder)
    if num_bytes and free < wanted:
        raise LocalEngineError(
            f"{folder} has {free / 1e9:.2f} GB free, and {wanted / 1e9:.2f} GB are needed; make "
            "room, or name another place with HF_HUB_CACHE"
        )


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that holds `folder`, or will."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(place).free
