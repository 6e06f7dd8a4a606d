"""The files of one pull: fetched, proved while nothing can load them, and only then placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError, ModelNotAvailableError
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
from hybrid_infer.snapshots.gguf_header import gguf_header
from hybrid_infer.snapshots.hub import asked
from hybrid_infer.snapshots.incoming import Incoming
from hybrid_infer.snapshots.integrity import check_complete
from hybrid_infer.snapshots.listing import HubFile, HubListing, as_locked, check_room, damaged
from hybrid_infer.snapshots.lock import (
    Files,
    LockedFile,
    check_agreement,
    locked_files,
    record,
    user_lock,
)
from hybrid_infer.snapshots.staging import write_main
from hybrid_infer.snapshots.transfer import OtherContentsError, Transfer, fetch_all
from hybrid_infer.snapshots.verification import differing

MAX_HTTP_BYTES = 50 * 10**9  # huggingface_hub/constants.py: MAX_HTTP_DOWNLOAD_SIZE


@dataclass(frozen=True, slots=True)
class Fetch:
    """What every file of one pull is fetched with.

    Attributes:
        spec: the model, or the repository of its GGUF file.
        listing: what the Hub says that it holds.
        token: the key, or False.
        url: the Hub's.
        progress: whether a progress bar is drawn.
        strict: whether only what models.lock lists may come.
    """

    spec: ModelSpec
    listing: HubListing
    token: str | Literal[False] = field(repr=False)
    url: str
    progress: bool
    strict: bool

    @property
    def repo(self) -> Path:
        """The repository's folder."""
        return repo_folder(self.spec.repo, hub_cache_dir())

    @property
    def folder(self) -> Path:
        """The snapshot's."""
        return snapshot_path(self.spec, self.listing.revision)

    def locked(self) -> Files:
        """What models.lock lists of this commit."""
        return locked_files(self.spec.repo, self.listing.revision)

    def record(self, files: Files, *, were_made_here: bool = False) -> None:
        """Have models.lock list files of this commit."""
        revision = self.listing.revision
        record(self.spec.repo, revision, files, were_made_here=were_made_here)


def fetch_commit(fetch: Fetch, wanted: Mapping[str, HubFile]) -> None:
    """Fetch what is not here or damaged, prove all of it, record it, and place it.

    Files are compared with the Hub's listing, with models.lock and with each other while they are in
    a folder that no load looks into. What is undamaged in the snapshot stays where it is.

    Args:
        fetch: the commit.
        wanted: the files that belong here.

    Raises:
        ModelIntegrityError: other bytes arrived than the Hub or models.lock lists, or they are no
            model that may be loaded.
        LocalEngineError: the disk refused, or has no room.
        HybridInferError: the Hub's errors, as ours. Only then, and where the process ends, what has
            been fetched is kept for the next try.
    """
    folder, locked = fetch.folder, fetch.locked()
    broken = damaged(folder, wanted)
    _check_unlocked(fetch, {name: locked[name] for name in broken if name in locked})
    incoming = Incoming(fetch.repo, folder)
    if broken or missing_of(folder, wanted) or _tails_to_make(fetch, folder):
        _fetch_and_place(fetch, incoming, wanted)
    else:
        incoming.remove()
        fetch.record(as_locked(folder, wanted))
    if fetch.spec.revision is None:
        write_main(fetch.repo, fetch.listing.revision)


def _fetch_and_place(fetch: Fetch, incoming: Incoming, wanted: Mapping[str, HubFile]) -> None:
    pickles = [fetch.listing.files[f"{tail}/{PICKLE}"] for tail in _tails(fetch)]
    with incoming.begun([*wanted.values(), *pickles]):
        incoming.gather(_fetched(fetch, incoming, wanted))
        arrived = as_locked(incoming.gathered, wanted)
        check_agreement(fetch.spec.repo, fetch.listing.revision, arrived)
        made = _converted(fetch, incoming)
        _check_loadable(fetch, incoming.gathered)
        fetch.record(arrived)
        fetch.record(made, were_made_here=True)
        incoming.place(wanted, made)


def _fetched(fetch: Fetch, incoming: Incoming, wanted: Mapping[str, HubFile]) -> dict[str, Path]:
    """Where each file is, once all of them are here and are what the Hub lists."""
    here = {name: incoming.find(name, file) for name, file in wanted.items()}
    absent = {name: wanted[name] for name, place in here.items() if place is None}
    check_room(hub_cache_dir(), sum(map(incoming.missing_bytes, absent.values())))
    _download(fetch, incoming, absent)
    return {name: here[name] or incoming.blob(file) for name, file in wanted.items()}


def _download(fetch: Fetch, incoming: Incoming, files: Mapping[str, HubFile]) -> None:
    """Fetch files and compare them with the listing; one that differs does not stay.

    Raises:
        OtherContentsError: one does.
        HybridInferError: the Hub's errors, as ours.
    """
    _check_transferable(fetch, files)
    targets = {incoming.blob(file): (name, file) for name, file in files.items()}
    if targets:
        asked(fetch.spec, lambda: _ask(fetch, targets))
    for blob, (name, file) in targets.items():
        if damaged(blob.parent, {blob.name: file}):
            blob.unlink()
            raise OtherContentsError.of(f"{name} of {fetch.spec.repo}")


def _check_transferable(fetch: Fetch, files: Mapping[str, HubFile]) -> None:
    for name, file in files.items():
        if file.size > MAX_HTTP_BYTES:
            raise ModelNotAvailableError(
                f"{name} of {fetch.spec.repo} has {file.size / 1e9:.0f} GB, and the Hub gives no more "
                f"than {MAX_HTTP_BYTES / 1e9:.0f} GB over plain HTTP. Fetch it with: hf download "
                f"{fetch.spec.repo} {name} --revision {fetch.listing.revision}; then pull again, "
                "which compares and records it"
            )


def _ask(fetch: Fetch, targets: Mapping[Path, tuple[str, HubFile]]) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    repo, revision = fetch.spec.repo, fetch.listing.revision
    transfers = [
        Transfer(
            f"{name} of {repo}",
            hf_hub_url(repo, name, revision=revision, endpoint=fetch.url),
            file.size,
            blob,
        )
        for blob, (name, file) in targets.items()
    ]
    # Compressed on its way a file could not be gone on with.
    headers = build_hf_headers(token=fetch.token) | {"Accept-Encoding": "identity"}
    fetch_all(transfers, headers, name=repo, progress=fetch.progress)


def _check_unlocked(fetch: Fetch, files: Files) -> None:
    """Refuse to fetch anew, for another listing, what is here as models.lock lists it."""
    whole = [name for name in files if not differing(fetch.folder, {name: files[name]})]
    if whole:
        raise ModelIntegrityError(
            f"{', '.join(whole)} of {fetch.spec.repo}: the Hub lists other contents than models.lock, "
            "which this copy agrees with. Nothing was removed; if it is the lock that is wrong, remove "
            f"its entry from {user_lock()}"
        )


def _check_loadable(fetch: Fetch, gathered: Path) -> None:
    """Refuse a commit whose files are no whole model, or one that no loader may be given."""
    try:
        if fetch.spec.gguf is None:
            check_complete(fetch.spec.task, gathered)
        else:
            gguf_header(gathered / fetch.spec.gguf.file)
    except ModelIntegrityError as error:
        said = error.message.replace(str(gathered), fetch.spec.repo)
        raise ModelIntegrityError(f"{said}; nothing of it was placed") from None


def _tails(fetch: Fetch) -> list[str]:
    """The folders of modules that the commit has as pickles only."""
    return [] if fetch.spec.gguf is not None else pickled_tails(fetch.listing.files)


def _tails_to_make(fetch: Fetch, folder: Path) -> list[str]:
    """Those of them that are Dense layers, and not in a snapshot as models.lock lists them."""
    locked = fetch.locked()
    return [
        tail
        for tail in _tails(fetch)
        if is_dense(folder, tail) and not _is_made(folder, f"{tail}/{SAFE}", locked)
    ]


def _is_made(folder: Path, name: str, locked: Files) -> bool:
    return (
        name in locked and (folder / name).is_file() and not differing(folder, {name: locked[name]})
    )


def _converted(fetch: Fetch, incoming: Incoming) -> dict[str, LockedFile]:
    """Make safetensors of the Dense layers that the repository has as pickles only.

    Returns:
        What was made, by path; what the snapshot has already is gathered, and not made again.

    Raises:
        ModelIntegrityError: a pickle is not what the Hub lists, or holds anything but tensors; or
            strict, and models.lock does not list what would be made.
        LocalEngineError: the disk refused.
        HybridInferError: the Hub's errors, as ours.
    """
    locked, made = fetch.locked(), {}
    for tail in _tails(fetch):
        name = f"{tail}/{SAFE}"
        if not is_dense(incoming.gathered, tail):
            continue
        if fetch.strict and name not in locked:
            raise ModelIntegrityError(f"{fetch.spec.name}: models.lock does not list {name}")
        if _is_made(fetch.folder, name, locked):
            incoming.gather({name: fetch.folder / name})
            continue
        _convert(fetch, incoming, f"{tail}/{PICKLE}", name)
        made[name] = LockedFile(size_of(incoming.made / name), digest_of(incoming.made / name))
        incoming.gather({name: incoming.made / name})
    return made


def _convert(fetch: Fetch, incoming: Incoming, name: str, target: str) -> None:
    """One of them; the pickle itself comes and goes with the scratch folder."""
    pickle = fetch.listing.files[name]
    if pickle.size > MAX_PICKLE_BYTES:
        raise ModelIntegrityError(f"{name} of {fetch.spec.repo} is too large for a Dense layer")
    blob = incoming.blob(pickle)
    if not blob.is_file() or damaged(blob.parent, {blob.name: pickle}):
        _download(fetch, incoming, {name: pickle})
    convert(blob, incoming.made / target, name)


def snapshot_path(spec: ModelSpec, revision: str) -> Path:
    """Where a commit's files are, or will be."""
    return repo_folder(spec.repo, hub_cache_dir()) / "snapshots" / revision


def missing_of(folder: Path, wanted: Mapping[str, HubFile]) -> list[str]:
    """Those of `wanted` that are not in `folder`."""
    return sorted(name for name in wanted if not (folder / name).is_file())
