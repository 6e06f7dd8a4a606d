"""The models.yaml of a bundle: aliases of the files that it holds, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.gguf_files import gguf_file
from hybrid_infer.registry.names import TASKS
from hybrid_infer.snapshots.archive import BundleError
from hybrid_infer.snapshots.lock import Locked

if TYPE_CHECKING:
    from hybrid_infer.registry.schema import ModelEntry


def aliases_of(specs: Iterable[ModelSpec]) -> bytes:
    """The aliases among `specs`, as a models.yaml."""
    document: dict[str, dict[str, Any]] = {}
    for spec in specs:
        if spec.alias is not None:
            document.setdefault(spec.task, {})[spec.alias] = _alias_entry(spec)
    return _written(document)


def checked_aliases(text: bytes, locked: Locked, mains: Collection[str]) -> bytes:
    """A stranger's models.yaml, read and written anew.

    Args:
        text: what came with the bundle.
        locked: the files of the bundle, which every alias must be of.
        mains: the repositories of which it has the ``main``: an alias without a pin is of one.

    Raises:
        BundleError: it is no models.yaml, has settings or remotes, or an alias of other files.
    """
    from hybrid_infer.registry.schema import validated_file
    from hybrid_infer.registry.yaml_source import parse_yaml

    try:
        file = validated_file(parse_yaml("the bundle's models.yaml", text))
    except ConfigError as error:
        raise BundleError(error.message) from None
    others = file.model_fields_set.difference(TASKS)
    if others:
        raise BundleError(f"the bundle's models.yaml has {min(others)}: only aliases may come")
    for task in TASKS:
        for alias, entry in file.entries(task).items():
            if not _is_held(entry, locked, mains):
                raise BundleError(
                    f"the bundle's models.yaml has the alias {task}/{alias}, whose files are not "
                    "in the bundle"
                )
    return _written(file.given())


def _is_held(entry: ModelEntry, locked: Locked, mains: Collection[str]) -> bool:
    """Whether a bundle has the local copy that an alias names."""
    repo: str | None = entry.repo
    revision, name, said = entry.revision, "", entry.given().get("gguf")
    if said is not None:
        gguf = gguf_file(said, repo=entry.repo, revision=entry.revision)
        repo, revision, name = gguf.repo, gguf.revision, gguf.file
    if repo is None:
        return False  # a path on the machine that it comes to
    if revision is None and repo not in mains:
        return False
    commits = [
        files for key, files in locked.items() if key[0] == repo and revision in {None, key[1]}
    ]
    return any(not name or name in files for files in commits)


def _written(document: dict[str, Any]) -> bytes:
    import yaml

    return str(yaml.safe_dump(document, sort_keys=True, allow_unicode=True)).encode()


def _alias_entry(spec: ModelSpec) -> dict[str, Any]:
    blank = asdict(ModelSpec(spec.task, None, "", None))
    entry = {key: value for key, value in asdict(spec).items() if value != blank[key]}
    del entry["alias"]
    entry.setdefault("revision", spec.revision)
    if "generation" in entry:
        said = entry["generation"].items()
        entry["generation"] = {key: value for key, value in said if value is not None}
    if "forbidden_dtypes" in entry:
        entry["forbidden_dtypes"] = list(spec.forbidden_dtypes)
    if spec.gguf is not None:
        at = f"@{spec.gguf.revision}" if spec.gguf.revision else ""
        entry["gguf"] = f"hf://{spec.gguf.repo}{at}/{spec.gguf.file}"
    return entry
