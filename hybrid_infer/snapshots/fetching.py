"""The files of one pull: fetched, compared with the Hub's listing, converted where that is needed."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.snapshots.conversion import (
    MAX_PICKLE_BYTES,
    PICKLE,
    SAFE,
    convert,
    is_dense,
    pickled_tails,
)
from hybrid_infer.snapshots.digests import digest_of, size_of
from hybrid_infer.snapshots.folders import hub_cache_dir, repo_folder
from hybrid_infer.snapshots.hub import asked
from hybrid_infer.snapshots.leftovers import forget_listing, remove_file, remove_partial_downloads
from hybrid_infer.snapshots.listing import HubFile, HubListing, as_locked, check_room, damaged
from hybrid_infer.snapshots.lock import Files, LockedFile, locked_files, record, user_lock
from hybrid_infer.snapshots.staging import write_main
from hybrid_infer.snapshots.verification import differing


@dataclass(frozen=True, slots=True)
class Fetch:
    """What every file of one pull is fetched with."""

    spec: ModelSpec
    revision: str
    token: str | Literal[False] = field(repr=False)
    url: str
    progress: bool

    @property
    def folder(self) -> Path:
        """The snapshot's."""
        return snapshot_path(self.spec, self.revision)

    def download(self, names: list[str], cache: Path) -> None:
        """Fetch some files into a cache of the Hub's layout; its errors leave as ours."""
        asked(self.spec, lambda: _download(self, names, cache))


def fetch_missing(fetch: Fetch, wanted: Mapping[str, HubFile]) -> None:
    """Fetch what is not here or damaged, compare all of it with the Hub's listing, and record it.

    Raises:
        ModelIntegrityError: other bytes arrived than the Hub lists, or than models.lock does.
        LocalEngineError: the disk refused, or has no room.
        HybridInferError: the Hub's errors, as ours.
    """
    folder, repo = fetch.folder, fetch.spec.repo
    locked = locked_files(repo, fetch.revision)
    remove_partial_downloads(repo)
    broken = damaged(folder, wanted)
    _check_unlocked(fetch, {name: locked[name] for name in broken if name in locked})
    for name in broken:
        remove_file(folder / name)  # or the Hub's client would take it as fetched
    missing = missing_of(folder, wanted)
    check_room(hub_cache_dir(), sum(wanted[name].size for name in missing))
    if missing:
        fetch.download(missing, hub_cache_dir())
    wrong = damaged(folder, wanted)
    for name in wrong:
        remove_file(folder / name)
    if wrong:
        raise _changed(repo, wrong[0])
    if absent := missing_of(folder, wanted):
        forget_listing(repo, fetch.revision)  # the client's own may be another than ours
        raise ModelIntegrityError(f"{absent[0]} of {repo} did not arrive; try again")
    arrived = as_locked(folder, wanted)
    for name, file in arrived.items():
        if locked.get(name, file) != file:
            remove_file(folder / name)  # what the Hub lists is not what the lock does
    record(repo, fetch.revision, arrived)
    if fetch.spec.revision is None:
        write_main(folder.parent.parent, fetch.revision)


def _check_unlocked(fetch: Fetch, files: Files) -> None:
    """Refuse to fetch anew, for another listing, what is here as models.lock lists it."""
    whole = [name for name in files if not differing(fetch.folder, {name: files[name]})]
    if whole:
        raise ModelIntegrityError(
            f"{', '.join(whole)} of {fetch.spec.repo}: the Hub lists other contents than models.lock, "
            "which this copy agrees with. Nothing was removed; if it is the lock that is wrong, remove "
            f"its entry from {user_lock()}"
        )


def _changed(repo: str, name: str) -> ModelIntegrityError:
    return ModelIntegrityError(
        f"{name} of {repo} arrived with other contents than the Hub lists; try again"
    )


def convert_tails(fetch: Fetch, listing: HubListing, *, strict: bool) -> None:
    """Make safetensors of the Dense layers that the repository has as pickles only.

    Raises:
        ModelIntegrityError: a pickle is not what the Hub lists, or holds anything but tensors; or
            `strict`, and models.lock does not list what would be made.
        LocalEngineError: the disk refused.
        HybridInferError: the Hub's errors, as ours.
    """
    repo, folder = fetch.spec.repo, fetch.folder
    for tail in pickled_tails(listing.files):
        name, pickle = f"{tail}/{SAFE}", listing.files[f"{tail}/{PICKLE}"]
        if not is_dense(folder, tail):
            continue
        locked = locked_files(repo, fetch.revision)
        if strict and name not in locked:
            raise ModelIntegrityError(f"{fetch.spec.name}: models.lock does not list {name}")
        if name in locked and (folder / name).is_file():
            if not differing(folder, {name: locked[name]}):
                continue
            remove_file(folder / name)
        if pickle.size > MAX_PICKLE_BYTES:
            raise ModelIntegrityError(f"{tail}/{PICKLE} of {repo} is too large for a Dense layer")
        _convert_tail(fetch, tail, pickle)


def _convert_tail(fetch: Fetch, tail: str, pickle: HubFile) -> None:
    """One of them; the pickle itself comes and goes with a scratch folder, and is no part of us."""
    name, target = f"{tail}/{PICKLE}", fetch.folder / tail / SAFE
    try:
        with tempfile.TemporaryDirectory(prefix="hybrid-infer-") as scratch:
            fetch.download([name], Path(scratch))
            arrived = repo_folder(fetch.spec.repo, Path(scratch)) / "snapshots" / fetch.revision
            if damaged(arrived, {name: pickle}) or not (arrived / name).is_file():
                raise _changed(fetch.spec.repo, name)
            convert((arrived / name).resolve(), target, name)
    except OSError as error:
        raise LocalEngineError(f"{name} could not be converted: {error.strerror}") from None
    made = LockedFile(size_of(target), digest_of(target))
    record(fetch.spec.repo, fetch.revision, {f"{tail}/{SAFE}": made}, were_made_here=True)


def snapshot_path(spec: ModelSpec, revision: str) -> Path:
    """Where a commit's files are, or will be."""
    return repo_folder(spec.repo, hub_cache_dir()) / "snapshots" / revision


def missing_of(folder: Path, wanted: Mapping[str, HubFile]) -> list[str]:
    """Those of `wanted` that are not in `folder`."""
    return sorted(name for name in wanted if not (folder / name).is_file())


def _download(fetch: Fetch, names: list[str], cache: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        fetch.spec.repo,
        revision=fetch.revision,
        cache_dir=cache,
        token=fetch.token,
        endpoint=fetch.url,
        allow_patterns=[glob.escape(name) for name in names],
        tqdm_class=None if fetch.progress else _silent_bar(),
    )


def _silent_bar() -> Any:
    """A progress bar that never shows; switching the Hub's bars off would do so for everyone."""
    from huggingface_hub.utils.tqdm import tqdm

    visible: Any = tqdm

    def start(bar: Any, *args: Any, **options: Any) -> None:
        visible.__init__(bar, *args, **{**options, "disable": True})

    return type("SilentBar", (visible,), {"__init__": start})
