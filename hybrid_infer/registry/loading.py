"""`load_registry`: which files are read, and how arguments and environment change them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.datatypes.models import RemoteSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.environment import (
    EnvironmentOptions,
    read_environment,
    validated_profile,
)
from hybrid_infer.registry.names import shown
from hybrid_infer.registry.resolve import Registry
from hybrid_infer.registry.tiny import tiny_models, tiny_remotes
from hybrid_infer.registry.urls import validated_base_url

if TYPE_CHECKING:
    from hybrid_infer.registry.document import Document
    from hybrid_infer.registry.merging import Source

FIRST_REMOTE = "huggingface"


def load_registry(
    models: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    base_url: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Registry:
    """Read the packaged models.yaml, merge the user's over it, and apply the arguments.

    Args:
        models: the user's file, or the same as a mapping; None: ``$HYBRID_INFER_MODELS``.
        profile: ``"tiny"``; None: ``$HYBRID_INFER_PROFILE``. Its only remotes are those of
            `base_url` and of the user's own ``remotes:``, all on this machine.
        base_url: replaces the URL of the remote named ``huggingface``, or of the first one
            where none is named so; with no remote at all it becomes ``huggingface``.
        environ: where the variables are read.

    Raises:
        ConfigError: a file, a mapping, an argument or a variable is wrong; a file's error
            starts with its path and line.
    """
    from hybrid_infer.registry.merging import Source, merged_models, merged_remotes, merged_settings

    options = read_environment(environ)
    chosen = options.profile if profile is None else validated_profile(profile, "profile")
    packaged = Source.of(_packaged_document())
    user = _user_source(models, options)
    originals = merged_models(packaged, user)
    remotes = merged_remotes(packaged, user, originals)
    specs = originals
    if chosen == "tiny":
        twins = frozenset(spec.repo for spec in merged_models(packaged, None))
        specs = tiny_models(originals, twins)
        brought = remotes if user is not None and user.file.remotes is not None else ()
        remotes = tiny_remotes(_with_base_url(brought, base_url), twins)
    else:
        remotes = _with_base_url(remotes, base_url)
    return Registry(
        models=specs,
        remotes=remotes,
        settings=merged_settings(packaged, user),
        profile=chosen,
        originals=originals,
    )


def _with_base_url(remotes: tuple[RemoteSpec, ...], base_url: object) -> tuple[RemoteSpec, ...]:
    if base_url is None:
        return remotes
    try:
        url = validated_base_url(base_url)
    except ValueError as error:
        raise ConfigError(f"base_url {error}") from None
    if not remotes:
        return (RemoteSpec(name=FIRST_REMOTE, dialect="hf-router", base_url=url),)
    names = [remote.name for remote in remotes]
    at = names.index(FIRST_REMOTE) if FIRST_REMOTE in names else 0
    return (*remotes[:at], replace(remotes[at], base_url=url), *remotes[at + 1 :])


def packaged_file(package: Traversable, checkout: Path) -> Traversable:
    """The models.yaml inside the installed package, else the one at the checkout's top level.

    Args:
        package: the package's own folder.
        checkout: the folder that holds it in an editable install.

    Raises:
        ConfigError: there is neither.
    """
    inside = package.joinpath("models.yaml")
    if inside.is_file():
        return inside
    beside = checkout / "models.yaml"
    if beside.is_file() and (checkout / "pyproject.toml").is_file():
        return beside
    raise ConfigError("models.yaml is missing from the installed package; reinstall hybrid-infer")


def _packaged_document() -> Document:
    from hybrid_infer.registry.yaml_source import parse_yaml

    checkout = Path(__file__).resolve().parents[2]
    return parse_yaml(
        "models.yaml", packaged_file(resources.files("hybrid_infer"), checkout).read_bytes()
    )


def _user_source(models: object, options: EnvironmentOptions) -> Source | None:
    from hybrid_infer.registry.document import document_from_mapping
    from hybrid_infer.registry.merging import Source
    from hybrid_infer.registry.yaml_source import parse_yaml

    origin = "models"
    if models is None:
        models, origin = options.models, "HYBRID_INFER_MODELS"
    if models is None:
        return None
    if isinstance(models, Mapping):
        return Source.of(document_from_mapping(origin, models))
    if not isinstance(models, str | os.PathLike):
        raise ConfigError(f"models must be a path or a mapping, not {type(models).__name__}")
    path = os.fsdecode(models)
    return Source.of(parse_yaml(path, _read_file(path, origin)), os.path.dirname(path))  # noqa: PTH120 - a str keeps "" as it is


def _read_file(path: str, origin: str) -> bytes:
    from hybrid_infer.registry.yaml_source import MAX_FILE_BYTES

    try:
        # A pipe or a device could block or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a str keeps "" and "\0" as they are
            raise ConfigError(f"{origin}: {shown(path)} is not a file")
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"{origin}: cannot read {shown(path)}: {reason}") from None
