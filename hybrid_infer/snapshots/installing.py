"""From a bundle into the Hub's cache: verified whole before a byte is placed, and again as it is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.snapshots.archive import ArchiveReader
from hybrid_infer.snapshots.bundles import (
    Bundle,
    BundledModel,
    check_member,
    inspect_bundle,
    members_of,
    opened_bundle,
    read_bundle,
)
from hybrid_infer.snapshots.drafts import keep_others, place_whole, whole_file
from hybrid_infer.snapshots.folders import INCOMING, cache_root, hub_cache_dir, repo_folder
from hybrid_infer.snapshots.guards import one_at_a_time
from hybrid_infer.snapshots.listing import check_room
from hybrid_infer.snapshots.lock import Files, Locked, record_all
from hybrid_infer.snapshots.resolve import main_revision
from hybrid_infer.snapshots.staging import write_main
from hybrid_infer.snapshots.verification import differing


@dataclass(frozen=True, slots=True)
class Installed:
    """What `install_bundle` did.

    Attributes:
        bundle: what it installed.
        folders: where each repository's commit now is.
        other_mains: commits that a repository's ``main`` was before, and still is, although the
            bundle has another one.
        models_yaml: the aliases of the bundle, to be named with ``--models`` where the packaged
            ones differ.
    """

    bundle: Bundle
    folders: Mapping[tuple[str, str], Path]
    other_mains: Mapping[str, str]
    models_yaml: Path


def install_bundle(path: Path) -> Installed:
    """Place the models of a bundle into the Hub's cache, and their hashes into the user's lock.

    What is there already stays, but for damaged files that the bundle has whole. Nothing is placed
    unless all of the bundle is whole and agrees with models.lock, and nothing before the lock lists
    it; each snapshot then appears whole or not at all.

    Args:
        path: the bundle.

    Raises:
        ModelIntegrityError: it is no bundle, damaged, or contradicts models.lock.
        InvalidRequestError: there is no such file.
        LocalEngineError: the disk refused, or has no room, or another process does not get on.
    """
    bundle = inspect_bundle(path)
    with ExitStack() as held:
        for repo in sorted({repo for repo, _ in bundle.locked}):  # one order: no deadlock
            held.enter_context(one_at_a_time(repo))
            # What a pull was broken off with: its files come from elsewhere now.
            shutil.rmtree(repo_folder(repo, hub_cache_dir()) / INCOMING, ignore_errors=True)
        return _install(path, bundle)


def _install(path: Path, bundle: Bundle) -> Installed:
    """`install_bundle`, of a bundle that was inspected, its repositories held."""
    cache = hub_cache_dir()
    targets = {key: repo_folder(key[0], cache) / "snapshots" / key[1] for key in bundle.locked}
    wanted = {key for key, files in bundle.locked.items() if not _is_whole(targets[key], files)}
    check_room(cache, sum(f.size for key in wanted for f in bundle.locked[key].values()))
    with opened_bundle(path) as reader:
        if read_bundle(reader) != bundle:
            raise ModelIntegrityError(f"{path} changed while it was installed")
        record_all(bundle.locked)
        for key, files in sorted(bundle.locked.items()):
            if key in wanted:
                _place(reader, {key: files}, targets[key])
            else:
                _pass_over(reader, {key: files})
        reader.end()
    kept = {
        model.repo: main
        for model in bundle.models
        if model.is_main and (main := _other_main(model, cache)) is not None
    }
    return Installed(bundle, targets, kept, _write_models_yaml(bundle.models_yaml))


def _other_main(model: BundledModel, cache: Path) -> str | None:
    """Make a model its repository's ``main``, unless another commit is: then that commit."""
    main = main_revision(repo_folder(model.repo, cache))
    if main is None:
        write_main(repo_folder(model.repo, cache), model.revision)
    return None if main == model.revision else main


def _is_whole(folder: Path, files: Files) -> bool:
    try:
        is_here = all((folder / name).is_file() for name in files)
        return is_here and not differing(folder, files)
    except ModelIntegrityError:
        return False


def _place(reader: ArchiveReader, locked: Locked, target: Path) -> None:
    """Write the snapshot that comes next; `locked` has it alone."""
    (files,) = locked.values()

    def fill(draft: Path) -> None:
        for (member, wanted, _), name in zip(members_of(locked), sorted(files), strict=True):
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                check_member(member, wanted, reader.member(member, wanted.size, file.write))
        keep_others(target, draft, hub_cache_dir(), lambda name: name not in files)

    place_whole(target, fill, is_usable=lambda found: _is_whole(found, files))


def _pass_over(reader: ArchiveReader, locked: Locked) -> None:
    for member, wanted, _ in members_of(locked):
        check_member(member, wanted, reader.member(member, wanted.size, lambda _: None))


def _write_models_yaml(text: bytes) -> Path:
    """Keep the bundle's aliases under a name that its contents give."""
    path = cache_root() / "bundles" / f"{hashlib.sha256(text).hexdigest()[:16]}.yaml"
    try:
        with whole_file(path) as file:
            file.write(text)
    except OSError as error:
        raise LocalEngineError(f"{path} could not be written: {error.strerror}") from None
    return path
