"""How snapshots get here from the Hub: listed, fetched, compared with what was listed, recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import InvalidRequestError, ModelIntegrityError, ModelNotAvailableError
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.snapshots.fetching import (
    Fetch,
    fetch_commit,
    missing_of,
    snapshot_path,
)
from hybrid_infer.snapshots.folders import hub_cache_dir
from hybrid_infer.snapshots.gguf_files import find_gguf, gguf_revision
from hybrid_infer.snapshots.gguf_header import gguf_header
from hybrid_infer.snapshots.guards import one_at_a_time
from hybrid_infer.snapshots.hub import HUB, hub_url, token_for
from hybrid_infer.snapshots.listing import HubFile, HubListing, free_bytes, list_repository
from hybrid_infer.snapshots.lock import LockedFile, check_agreement, check_sizes, locked_files
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.selection import is_allowed
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import check_gguf, check_snapshot

__all__ = ["PullPlan", "plan_pull", "pull", "stage"]


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What `pull` would fetch.

    Attributes:
        name: what was asked for.
        repo: the repository.
        revision: the commit.
        files: size in bytes of every file that belongs here, by path.
        missing: those of them that are not here yet.
        missing_bytes: what they add up to.
        free_bytes: of the disk that they would go to.
    """

    name: str
    repo: str
    revision: str
    files: Mapping[str, int]
    missing: tuple[str, ...]
    missing_bytes: int
    free_bytes: int


def pull(
    spec: ModelSpec,
    *,
    token: str | None = None,
    progress: bool = True,
    source: Path | None = None,
    endpoint: str | None = None,
    strict: bool = False,
) -> Path:
    """Fetch a model into the Hub's cache; what is there and undamaged is not fetched again.

    What arrives is compared with the hashes that the Hub lists, and with models.lock; then it goes
    into the user's lock. One process at a time fetches a repository; others wait as long as that
    makes progress.

    Args:
        spec: what to fetch; pinned or ``main``. A seeded model is written, not fetched.
        token: the Hub key; sent to Hugging Face's hosts over https, and to loopback, only.
        progress: whether progress bars are drawn.
        source: a local folder to stage instead.
        endpoint: the Hub's URL; None: HF_ENDPOINT, else huggingface.co.
        strict: whether only files that models.lock lists already may come.

    Returns:
        The snapshot's folder, or the GGUF file.

    Raises:
        ModelNotAvailableError: gated or unknown; the message has the link.
        AuthenticationError: the key was refused.
        RateLimitError: the Hub answered 429.
        RemoteServerError: the Hub failed.
        APIConnectionError: the Hub cannot be reached, or an offline variable is set.
        ModelIntegrityError: what arrived is not a usable model, or not the one that was listed.
        LocalEngineError: the disk refused or has no room, or another process does not get on.
    """
    if source is not None:
        if spec.gguf is not None:
            raise InvalidRequestError(
                f"{spec.name} names a GGUF file; to use another, name its path there",
                argument="source",
            )
        return stage(source, spec, strict=strict)
    if spec.gguf is not None and spec.gguf.repo is None:
        return find_gguf(spec, spec.gguf)
    if spec.repo.startswith(TINY_PREFIX):
        return find_snapshot(spec)
    holder = _holder(spec)
    url = hub_url(holder.repo, endpoint)
    with one_at_a_time(holder.repo):
        listing = list_repository(holder, url, token_for(url, token))
        wanted = _wanted(spec, listing)
        _check_listing(holder, listing.revision, wanted, strict=strict)
        fetch_commit(Fetch(holder, listing, token_for(url, token), url, progress, strict), wanted)
    return _found(spec, strict=strict)


def plan_pull(
    spec: ModelSpec, *, token: str | None = None, endpoint: str | None = None
) -> PullPlan:
    """What `pull` would fetch; nothing is.

    Args:
        spec: what to fetch.
        token: as `pull`.
        endpoint: as `pull`.

    Raises:
        HybridInferError: as `pull`.
        InvalidRequestError: the model's files are not the Hub's.
    """
    if spec.repo.startswith(TINY_PREFIX) or (spec.gguf is not None and spec.gguf.repo is None):
        raise InvalidRequestError(f"{spec.name} is not fetched from the Hub", argument="model")
    holder = _holder(spec)
    url = hub_url(holder.repo, endpoint)
    listing = list_repository(holder, url, token_for(url, token))
    wanted = _wanted(spec, listing)
    missing = missing_of(snapshot_path(holder, listing.revision), wanted)
    return PullPlan(
        spec.name,
        holder.repo,
        listing.revision,
        {name: file.size for name, file in sorted(wanted.items())},
        tuple(missing),
        sum(wanted[name].size for name in missing),
        free_bytes(hub_cache_dir()),
    )


def _holder(spec: ModelSpec) -> ModelSpec:
    """The repository that holds the files: a GGUF file may be in another one."""
    if spec.gguf is None or spec.gguf.repo is None:
        return spec
    return replace(spec, repo=spec.gguf.repo, revision=spec.gguf.revision)


def _wanted(spec: ModelSpec, listing: HubListing) -> dict[str, HubFile]:
    """The files that belong here: the one that an alias names, or what a snapshot is made of."""
    if spec.gguf is None:
        return {name: file for name, file in listing.files.items() if is_allowed(name)}
    if spec.gguf.file not in listing.files:
        raise ModelNotAvailableError(
            f"{spec.gguf.repo} has no file {spec.gguf.file}: see {HUB}/{spec.gguf.repo}/tree/main"
        )
    return {spec.gguf.file: listing.files[spec.gguf.file]}


def _check_listing(
    spec: ModelSpec, revision: str, wanted: Mapping[str, HubFile], *, strict: bool
) -> None:
    """Refuse, before a byte is fetched, what models.lock says otherwise."""
    hashed = {
        name: LockedFile(file.size, file.sha256)
        for name, file in wanted.items()
        if file.sha256 is not None
    }
    check_agreement(spec.repo, revision, hashed)
    check_sizes(spec.repo, revision, {name: file.size for name, file in wanted.items()})
    if not strict:
        return
    if spec.revision is None:
        raise ModelIntegrityError(
            f"{spec.name} is not pinned to a commit, which strict asks for: give its revision in "
            "models.yaml"
        )
    unlisted = sorted(wanted.keys() - locked_files(spec.repo, revision).keys())
    if unlisted:
        raise ModelIntegrityError(
            f"{spec.name}: models.lock does not list {unlisted[0]}, and strict fetches only what "
            "it lists"
        )


def _found(spec: ModelSpec, *, strict: bool) -> Path:
    """What was fetched, as a load will find it."""
    if spec.gguf is None:
        folder = find_snapshot(spec)
        check_snapshot(spec, folder, strict=strict)
        return folder
    return _found_gguf(spec, spec.gguf, strict=strict)


def _found_gguf(spec: ModelSpec, gguf: GgufFile, *, strict: bool) -> Path:
    file = find_gguf(spec, gguf)
    gguf_header(file)
    check_gguf(spec, gguf, file, gguf_revision(gguf), strict=strict)
    return file
