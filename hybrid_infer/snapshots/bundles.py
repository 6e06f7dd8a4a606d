"""Bundles: chosen models in one file, for a machine without a network.

A bundle is a tar file of, in this order: ``bundle.json`` (which models), ``models.lock`` (their
files, sizes and hashes), ``models.yaml`` (their aliases), and the files, in the folders and the
order of the lock. The same models give the same bytes. A name that ends in ``.zst`` has it packed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import InvalidRequestError, LocalEngineError
from hybrid_infer.registry.names import hub_id_problem
from hybrid_infer.registry.tiny import TINY_PREFIX
from hybrid_infer.snapshots.archive import ArchiveReader, BundleError, Member, write_archive
from hybrid_infer.snapshots.bundled_aliases import aliases_of, checked_aliases
from hybrid_infer.snapshots.compression import packed_by_name, unpacked
from hybrid_infer.snapshots.drafts import whole_file
from hybrid_infer.snapshots.folders import hub_cache_dir, repo_folder
from hybrid_infer.snapshots.gguf_files import find_gguf, gguf_revision
from hybrid_infer.snapshots.lock import (
    Files,
    Locked,
    LockedFile,
    check_agreement,
    format_lock,
    is_revision,
    parse_lock,
)
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.selection import is_allowed
from hybrid_infer.snapshots.verification import check_gguf, check_snapshot, measured

FORMAT = 1
MANIFEST, LOCK, MODELS = "bundle.json", "models.lock", "models.yaml"
MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_MODELS = 256


@dataclass(frozen=True, slots=True)
class BundledModel:
    """One model of a bundle.

    Attributes:
        name: the alias with its task, or the Hub id.
        repo: the repository that its files are of.
        revision: their commit.
        is_main: whether it was found as the repository's ``main``, having no pin.
    """

    name: str
    repo: str
    revision: str
    is_main: bool


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle says it holds.

    Attributes:
        models: in the order of their names.
        locked: its models.lock.
        models_yaml: its models.yaml, written anew: aliases of these files and nothing else.
        sha256: of the whole archive, unpacked, as it was read or written; empty while only its
            beginning was.
    """

    models: tuple[BundledModel, ...]
    locked: Locked
    models_yaml: bytes
    sha256: str = field(default="", compare=False)

    @property
    def num_bytes(self) -> int:
        """What its files add up to."""
        return sum(file.size for files in self.locked.values() for file in files.values())


def create_bundle(target: Path, specs: Sequence[ModelSpec]) -> Bundle:
    """Write a bundle of models that are on this machine; it appears whole or not at all.

    Their files are compared with models.lock first.

    Args:
        target: the file to write, packed if its name ends in ``.zst``; one that is there is
            replaced.
        specs: the models.

    Raises:
        ModelNotDownloadedError: one is not here.
        ModelIntegrityError: one is damaged.
        InvalidRequestError: one is seeded, or a file of this machine alone; or `target` is something
            else than a file.
        LocalEngineError: the disk refused.
    """
    if not target.name or (os.path.exists(target) and not target.is_file()):  # noqa: PTH110 - any name
        raise InvalidRequestError(f"{target} is not a file that can be replaced", argument="target")
    models: dict[str, BundledModel] = {}
    locked: dict[tuple[str, str], dict[str, LockedFile]] = {}
    for spec in specs:
        model, files = _holding(spec)
        models[spec.name] = model
        locked.setdefault((model.repo, model.revision), {}).update(files)
    bundle = Bundle(tuple(models[name] for name in sorted(models)), locked, aliases_of(specs))
    try:
        with whole_file(target) as file, packed_by_name(target, file) as opened:
            sha256 = write_archive(opened, _members(bundle))
    except OSError as error:
        raise LocalEngineError(f"{target} could not be written: {error.strerror}") from None
    return replace(bundle, sha256=sha256)


def _holding(spec: ModelSpec) -> tuple[BundledModel, Files]:
    if spec.repo.startswith(TINY_PREFIX):
        raise InvalidRequestError(f"{spec.repo} is seeded, and needs no bundle", argument="model")
    if spec.gguf is None:
        folder = find_snapshot(spec)
        check_snapshot(spec, folder, strict=False)
        model = BundledModel(spec.name, spec.repo, folder.name, spec.revision is None)
        return model, measured(folder)
    path, revision = find_gguf(spec, spec.gguf), gguf_revision(spec.gguf)
    if spec.gguf.repo is None or revision is None:
        raise InvalidRequestError(
            f"{spec.name} is a file of this machine alone: copy {path} yourself", argument="model"
        )
    check_gguf(spec, spec.gguf, path, revision, strict=False)
    model = BundledModel(spec.name, spec.gguf.repo, revision, spec.gguf.revision is None)
    return model, measured(path.parents[spec.gguf.file.count("/")], [spec.gguf.file])


def _members(bundle: Bundle) -> Iterable[Member]:
    manifest = {"format": FORMAT, "models": [asdict(model) for model in bundle.models]}
    texts = {
        MANIFEST: json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n",
        LOCK: format_lock(bundle.locked).encode(),
        MODELS: bundle.models_yaml,
    }
    for name, text in texts.items():
        yield Member(name, len(text), text)
    for name, file, place in members_of(bundle.locked):
        yield Member(name, file.size, (hub_cache_dir() / place).resolve(), file.sha256)


def members_of(locked: Locked) -> Iterable[tuple[str, LockedFile, Path]]:
    """Every file of a bundle in its order: the member's name, what it must be, its place in a cache."""
    for (repo, revision), files in sorted(locked.items()):
        for name, file in sorted(files.items()):
            place = repo_folder(repo, Path()) / "snapshots" / revision / name
            yield place.as_posix(), file, place


def read_bundle(reader: ArchiveReader) -> Bundle:
    """The texts at the beginning of a bundle; no file of it is read.

    Raises:
        ModelIntegrityError: it is no bundle, or contradicts itself.
    """
    models = _parse_manifest(reader.small(MANIFEST, MAX_TEXT_BYTES))
    locked = parse_lock(reader.small(LOCK, MAX_TEXT_BYTES), f"the bundle's {LOCK}")
    text = reader.small(MODELS, MAX_TEXT_BYTES)
    if {(model.repo, model.revision) for model in models} != set(locked):
        raise BundleError("the bundle's models and its models.lock do not speak of the same")
    for files in locked.values():
        for name in files:
            if not is_allowed(name) and not name.endswith(".gguf"):
                raise BundleError(f"the bundle has {name}, a kind of file that is never placed")
            if any(map(files.__contains__, map(str, PurePosixPath(name).parents))):
                raise BundleError(f"the bundle has {name} in a folder that is a file")
    mains = {model.repo for model in models if model.is_main}
    return Bundle(models, locked, checked_aliases(text, locked, mains))


def _parse_manifest(text: bytes) -> tuple[BundledModel, ...]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"format": 1, "models": list(entries), **others} if (
            not others and 0 < len(entries) <= MAX_MODELS
        ):
            return tuple(map(_bundled, entries))
    raise BundleError(f"{MANIFEST} is not that of a bundle of format {FORMAT}")


def _bundled(entry: Any) -> BundledModel:
    match entry:
        case {
            "name": str(name), "repo": str(repo), "revision": str(revision),
            "is_main": bool(is_main), **others,
        } if not others and not hub_id_problem(repo) and is_revision(revision):  # fmt: skip
            if 0 < len(name) <= 200 and name.isprintable():  # noqa: PLR2004 - more than any name has
                return BundledModel(name, repo, revision, is_main)
    raise BundleError(f"{MANIFEST} has an entry that is no model")


def inspect_bundle(path: Path) -> Bundle:
    """What a bundle holds, every byte of it compared with the lock that it carries.

    Raises:
        ModelIntegrityError: it is no bundle, or damaged; or models.lock here knows better.
        InvalidRequestError: there is no such file.
    """
    with opened_bundle(path) as reader:
        bundle = read_bundle(reader)
        for name, wanted, _ in members_of(bundle.locked):
            check_member(name, wanted, reader.member(name, wanted.size, lambda _: None))
        reader.end()
    for (repo, revision), files in bundle.locked.items():
        check_agreement(repo, revision, files)
    return replace(bundle, sha256=reader.sha256)


@contextmanager
def opened_bundle(path: Path) -> Iterator[ArchiveReader]:
    """Read a bundle.

    Raises:
        InvalidRequestError: there is no such file, or it cannot be read; or it is packed, and there
            is no zstd here.
    """
    try:
        with path.open("rb") as file:
            yield ArchiveReader(unpacked(file))
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be read: {error.strerror}", argument="bundle"
        ) from None


def check_member(name: str, wanted: LockedFile, sha256: str) -> None:
    """Refuse a file whose hash is not the lock's.

    Raises:
        BundleError: it is not.
    """
    if sha256 != wanted.sha256:
        raise BundleError(
            f"{name} has the SHA-256 {sha256}, and by the bundle's own lock {wanted.sha256}: it was "
            "damaged or changed"
        )
