"""A local model folder, placed into the Hub's cache as if it had been downloaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import InvalidRequestError, LocalEngineError, ModelIntegrityError
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.snapshots.conversion import (
    PICKLE,
    SAFE,
    convert_small,
    is_dense,
    pickled_tails,
)
from hybrid_infer.snapshots.drafts import keep_others, place_whole, whole_file
from hybrid_infer.snapshots.facts import check_assertions, snapshot_facts
from hybrid_infer.snapshots.folders import INCOMING, hub_cache_dir, repo_folder
from hybrid_infer.snapshots.guards import one_at_a_time
from hybrid_infer.snapshots.integrity import check_complete, check_inside
from hybrid_infer.snapshots.lock import Files, check_agreement, locked_files, record, user_lock
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.selection import allowed_files, is_allowed
from hybrid_infer.snapshots.verification import check_snapshot, measured


def stage(directory: Path, spec: ModelSpec, *, strict: bool = False) -> Path:
    """Place a local model folder into the Hub's cache as `spec`'s snapshot.

    Files are hard-linked where the file system allows it, else copied. The folder appears whole
    or not at all; staging it again changes nothing, and replaces a damaged snapshot, as well as one
    with other files that no lock lists.

    Args:
        directory: a folder in the layout of a repository.
        spec: what it is to be found as; unpinned, its revision becomes a hash of its contents.
        strict: whether only files that models.lock lists already may come.

    Raises:
        ModelIntegrityError: the folder holds no usable model, another one than models.yaml describes,
            or other files than models.lock lists; or a file in it is a link that leads out of it.
        ConfigError: its weights are quantised, and models.yaml does not allow that.
        InvalidRequestError: there is no such folder, or `spec` is a seeded model, which is written
            and never staged.
        LocalEngineError: the disk refused.
    """
    if spec.repo.startswith(TINY_PREFIX):
        raise InvalidRequestError(
            f"{spec.repo} is seeded and takes no files from elsewhere", argument="source"
        )
    if not os.path.isdir(directory):  # noqa: PTH112 - of a name that no folder can have, too
        raise InvalidRequestError(f"{directory} is not a folder", argument="source")
    _check_links(directory)
    repo = repo_folder(spec.repo, hub_cache_dir())
    with one_at_a_time(spec.repo), _without_pickles(directory, repo) as whole:
        return _stage(whole, spec, strict=strict)


def _check_links(directory: Path) -> None:
    """Refuse a file that is a link out of the folder: a clone keeps links, and a bundle would take along
    whatever they lead to.

    Within a Hub's cache, this machine's or the folder's own, links are the ordinary layout.

    Raises:
        ModelIntegrityError: one is; the message names it.
    """
    roots = [directory, hub_cache_dir()]
    if directory.parent.name == "snapshots" and directory.parents[1].name.startswith("models--"):
        roots.append(directory.parents[2])
    inside = [Path(os.path.realpath(root)) for root in roots]
    for name in allowed_files(directory):
        target = Path(os.path.realpath(directory / name))
        if not any(map(target.is_relative_to, inside)):
            raise ModelIntegrityError(f"{directory / name} is a link that leads out of {directory}")


@contextmanager
def _without_pickles(directory: Path, repo: Path) -> Iterator[Path]:
    """The folder itself; or, where a Dense layer is only a pickle, links to it with a converted one.

    Those are in a scratch folder of the repository's, whose lock is held. What a pull was broken off
    with goes: its files come from elsewhere now.
    """
    scratch = repo / INCOMING / "staged"
    shutil.rmtree(scratch.parent, ignore_errors=True)
    names = [file.relative_to(directory).as_posix() for file in directory.glob("*/*.*")]
    tails = [tail for tail in pickled_tails(names) if is_dense(directory, tail)]
    if not tails:
        yield directory
        return
    try:
        scratch.mkdir(parents=True)
        _link_all(directory, [file.as_posix() for file in allowed_files(directory)], scratch)
        for tail in tails:
            convert_small(directory / tail / PICKLE, scratch / tail / SAFE)
        yield scratch
    except OSError as error:
        raise LocalEngineError(f"{directory} could not be staged: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch.parent, ignore_errors=True)
        with suppress(OSError):  # unless it holds something
            repo.rmdir()


def _stage(directory: Path, spec: ModelSpec, *, strict: bool) -> Path:
    repo = repo_folder(spec.repo, hub_cache_dir())
    if spec.revision is not None and _is_listed(spec, repo / "snapshots" / spec.revision):
        _check_same(directory, spec.repo, repo / "snapshots" / spec.revision)
        return find_snapshot(spec)
    check_complete(spec.task, directory)
    files = measured(directory)
    revision = spec.revision or _content_revision(files)
    check_agreement(spec.repo, revision, files)
    check_assertions(spec, snapshot_facts(directory))
    if strict:
        check_snapshot(spec, directory, strict=True, revision=revision)
    record(spec.repo, revision, files)  # from here on a copy that is not the folder's is unusable
    target = repo / "snapshots" / revision

    def fill(draft: Path) -> None:
        _link_all(directory, files, draft)
        keep_others(target, draft, hub_cache_dir(), lambda name: not is_allowed(name))

    if not _is_usable(spec, target):
        place_whole(target, fill, is_usable=lambda found: _is_usable(spec, found))
    if spec.revision is None:
        write_main(repo, revision)
    return find_snapshot(spec)


def _is_listed(spec: ModelSpec, folder: Path) -> bool:
    """Whether a usable copy is here whose files models.lock lists: else nothing speaks for it."""
    listed = locked_files(spec.repo, folder.name)
    return any(map(is_allowed, listed)) and _is_usable(spec, folder)


def _check_same(directory: Path, repo: str, here: Path) -> None:
    """Refuse a folder that is not the copy which is here: it would be left aside without a word.

    Raises:
        ModelIntegrityError: one of its files is another one, or is not there.
    """
    names = [file.as_posix() for file in allowed_files(directory)]
    if all(_is_same(directory / name, here / name) for name in names):
        return  # nearly always: they are linked
    listed = locked_files(repo, here.name)
    for name, file in measured(directory).items():
        if listed.get(name) != file:
            raise ModelIntegrityError(
                f"another copy of {repo} is here already: {name} of {directory} is not its own. To take "
                f"these files instead, remove {here}, and its entry from {user_lock()}"
            )


def _is_same(file: Path, other: Path) -> bool:
    return other.exists() and file.samefile(other)


def _is_usable(spec: ModelSpec, folder: Path) -> bool:
    try:
        check_inside(folder, hub_cache_dir())
        check_complete(spec.task, folder)
        check_snapshot(spec, folder, strict=False)
    except ModelIntegrityError:
        return False
    return True


def _content_revision(files: Files) -> str:
    """A commit-like name for these files: the same contents, the same name."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(name.encode() + b"\0" + bytes.fromhex(file.sha256))
    return digest.hexdigest()[:40]


def _link_all(directory: Path, files: Iterable[str], draft: Path) -> None:
    for file in files:
        (draft / file).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy((directory / file).resolve(), draft / file)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_main(repo: Path, revision: str) -> None:
    """Make a commit the one that the cache of `repo` calls ``main``.

    Raises:
        LocalEngineError: the disk refused.
    """
    try:
        with whole_file(repo / "refs" / "main") as file:
            file.write(revision.encode())
    except OSError as error:
        raise LocalEngineError(
            f"{repo / 'refs' / 'main'} could not be written: {error.strerror}"
        ) from None
