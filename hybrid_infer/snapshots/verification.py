"""Whether the files of a local copy are, byte for byte, those that models.lock lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.snapshots.digests import digests_of, size_of
from hybrid_infer.snapshots.lock import Files, LockedFile, locked_files
from hybrid_infer.snapshots.selection import allowed_files, is_allowed


def check_snapshot(
    spec: ModelSpec, folder: Path, *, strict: bool, revision: str | None = None
) -> None:
    """Refuse a snapshot that differs from what models.lock lists.

    Every file that a loader may read is looked at: a listed one must have its hash, and once a
    lock lists a snapshot, one that it does not list has no business there. Of a snapshot that no
    lock lists nothing is known; `strict` refuses it.

    Args:
        spec: whose snapshot it is.
        folder: where it is.
        strict: whether anything that is not pinned, by commit and by hash, is refused.
        revision: its commit; None: what the folder is named after.

    Raises:
        ModelIntegrityError: it differs; the message names the file.
    """
    if spec.repo.startswith(TINY_PREFIX):
        return  # written here, from seeds
    if strict:
        _require_pin(spec.name, spec.revision)
    listed = {
        name: file
        for name, file in locked_files(spec.repo, revision or folder.name).items()
        if is_allowed(name)
    }
    present = {file.as_posix() for file in allowed_files(folder)}
    if listed or strict:
        _check_names(spec, folder, present, listed, strict=strict)
    _check_contents(spec.name, folder, {name: listed[name] for name in present & listed.keys()})


def check_gguf(
    spec: ModelSpec, gguf: GgufFile, path: Path, revision: str | None, *, strict: bool
) -> None:
    """Refuse a GGUF file that differs from what models.lock lists; see `check_snapshot`.

    Args:
        spec: the alias that names it.
        gguf: how it names it.
        path: where it is.
        revision: the commit that it is of; None: it is simply on this machine.
        strict: as `check_snapshot`.

    Raises:
        ModelIntegrityError: it differs, or may not serve under `strict`.
    """
    if strict:
        _require_pin(spec.name, gguf.revision)
    if gguf.repo is None or revision is None:
        return
    file = locked_files(gguf.repo, revision).get(gguf.file)
    if file is not None:
        _check_contents(spec.name, path.parents[gguf.file.count("/")], {gguf.file: file})
    elif strict:
        raise ModelIntegrityError(_unlisted(spec.name, gguf.file))


def _require_pin(name: str, revision: str | None) -> None:
    if revision is None:
        raise ModelIntegrityError(
            f"{name} is not pinned to a commit, which strict asks for: give its revision in "
            "models.yaml"
        )


def _check_names(
    spec: ModelSpec, folder: Path, present: set[str], listed: Files, *, strict: bool
) -> None:
    foreign = sorted(present - listed.keys())
    if foreign:
        if strict and not listed:
            raise ModelIntegrityError(_unlisted(spec.name, foreign[0]))
        raise ModelIntegrityError(
            f"{folder / foreign[0]} is not among the files that models.lock lists for {spec.name}; "
            "remove it"
        )
    missing = sorted(listed.keys() - present)
    if missing:
        raise ModelIntegrityError(
            f"{folder} lacks {missing[0]}, which models.lock lists; "
            f"run: hybrid-infer pull {spec.name}"
        )


def _unlisted(name: str, file: str) -> str:
    return (
        f"{name}: models.lock does not list {file}, and strict refuses what it does not list; "
        f"run: hybrid-infer pull {name}, or bring a lock along"
    )


def _check_contents(name: str, folder: Path, files: Files) -> None:
    wrong = differing(folder, files)
    if wrong:
        raise ModelIntegrityError(f"{wrong[0]}; run: hybrid-infer pull {name}")


def differing(folder: Path, files: Files) -> list[str]:
    """What is wrong with those of `files` that are in `folder`, one sentence each.

    Raises:
        ModelIntegrityError: a file cannot be read.
    """
    here = {name: folder / name for name in files if (folder / name).is_file()}
    sizes = {name: size_of(path) for name, path in here.items()}
    digests = digests_of(path for name, path in here.items() if sizes[name] == files[name].size)
    wrong = []
    for name, path in sorted(here.items()):
        if path not in digests:
            wrong.append(
                f"{path} has {sizes[name]:,} bytes, and by models.lock {files[name].size:,}"
            )
        elif digests[path] != files[name].sha256:
            wrong.append(
                f"{path} has the SHA-256 {digests[path]}, and by models.lock {files[name].sha256}: "
                "it was damaged or changed"
            )
    return wrong


def measured(folder: Path, names: Iterable[str] | None = None) -> dict[str, LockedFile]:
    """Size and hash of files of a snapshot.

    Args:
        folder: where it is.
        names: which; None: every one that a loader may read.

    Raises:
        ModelIntegrityError: one cannot be read.
    """
    if names is None:
        names = [file.as_posix() for file in allowed_files(folder)]
    paths = {name: folder / name for name in names}
    digests = digests_of(paths.values())
    return {name: LockedFile(size_of(path), digests[path]) for name, path in paths.items()}
