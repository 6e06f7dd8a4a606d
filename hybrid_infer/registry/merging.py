"""Merges a user's models.yaml over the packaged one into specs and settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hybrid_infer.datatypes.models import GenerationDefaults, ModelSpec, RemoteSpec, Task
from hybrid_infer.registry.document import Document, Path, dotted, within
from hybrid_infer.registry.gguf_files import gguf_file
from hybrid_infer.registry.names import TASKS, did_you_mean, hub_id_problem, shown
from hybrid_infer.registry.schema import ModelsFile, RemoteEntry, validated_file
from hybrid_infer.settings import SETTING_GROUPS, Settings, checked_setting, setting_hints

LITELLM_NAMES = {
    "timeout": "embed_timeout_seconds or chat_timeout_seconds",
    "stream_timeout": "stream_gap_seconds",
    "num_retries": "max_attempts_per_target",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One models.yaml, read and validated.

    Attributes:
        document: with its lines.
        file: its values.
        folder: where the relative paths in it begin.
    """

    document: Document
    file: ModelsFile
    folder: str = ""

    @classmethod
    def of(cls, document: Document, folder: str = "") -> Source:
        """Validate `document`; raises `ConfigError`."""
        return cls(document, validated_file(document), folder)


def merged_models(packaged: Source, user: Source | None) -> tuple[ModelSpec, ...]:
    """Every alias of both tasks, the packaged ones first.

    Raises:
        ConfigError: an alias has no repo.
    """
    specs = []
    for task in TASKS:
        ours = packaged.file.entries(task)
        theirs = user.file.entries(task) if user else {}
        for alias in dict.fromkeys([*ours, *theirs]):
            base = ours[alias].given() if alias in ours else {}
            change = theirs[alias].given() if alias in theirs else {}
            source = user if user and alias in theirs else packaged
            specs.append(_spec(task, alias, _merged_entry(base, change), source))
    return tuple(specs)


def _merged_entry(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    if "repo" in change and change["repo"] != base.get("repo"):
        return change
    merged = base | change
    if "generation" in base and "generation" in change:
        merged["generation"] = base["generation"] | change["generation"]
    return merged


def _spec(task: Task, alias: str, entry: dict[str, Any], source: Source) -> ModelSpec:
    path: Path = (task, alias)
    if "repo" not in entry:
        raise source.document.error(path, f"{dotted(path)} needs 'repo'")
    entry = {"revision": None} | entry
    if entry.get("gguf") is not None:
        pin = {"repo": entry["repo"], "revision": entry["revision"]}
        entry["gguf"] = gguf_file(entry["gguf"], **pin, folder=source.folder)
    generation = GenerationDefaults(**entry.pop("generation", {}))
    dtypes = tuple(entry.pop("forbidden_dtypes", ()))
    return ModelSpec(
        task=task, alias=alias, generation=generation, forbidden_dtypes=dtypes, **entry
    )


def merged_remotes(
    packaged: Source, user: Source | None, models: Iterable[ModelSpec]
) -> tuple[RemoteSpec, ...]:
    """The user's list of remotes where there is one, else the packaged list.

    Raises:
        ConfigError: a name is doubled, a key is missing, or a model is not one.
    """
    ours = {remote.name: remote.given() for remote in packaged.file.remotes or []}
    source, bases = packaged, {}
    if user is not None and user.file.remotes is not None:
        source, bases = user, ours
    repos = {spec.name: spec.repo for spec in models}
    remotes: list[RemoteSpec] = []
    for index, entry in enumerate(source.file.remotes or []):
        path: Path = ("remotes", index)
        if entry.name in {remote.name for remote in remotes}:
            raise source.document.error(
                (*path, "name"), f"{dotted(path)}.name: two remotes are named '{entry.name}'"
            )
        remotes.append(_remote(entry, bases.get(entry.name, {}), path, source.document))
        _check_served(entry, repos, path, source.document)
        _check_one_model(remotes[-1], repos, path, source.document)
    return tuple(remotes)


def _remote(
    entry: RemoteEntry, base: Mapping[str, Any], path: Path, document: Document
) -> RemoteSpec:
    fields = {**base, **entry.given()}
    for key in ("dialect", "base_url"):
        if key not in fields:
            raise document.error(path, f"{dotted(path)} needs '{key}'")
    served = fields.pop("models", None)
    return RemoteSpec(**fields, models=None if served is None else tuple(served.items()))


def _check_served(
    entry: RemoteEntry, names: Collection[str], path: Path, document: Document
) -> None:
    for model in entry.models or {}:
        if model in names:
            continue
        if hub_id_problem(model) or model.partition("/")[0] in TASKS:
            raise document.error(
                (*path, "models", model),
                f"{dotted(path)}.models: {shown(model)} is neither an alias with its task, "
                f"such as chat/small, nor a Hub id{did_you_mean(model, names)}",
            )


def _check_one_model(
    remote: RemoteSpec, repos: Mapping[str, str], path: Path, document: Document
) -> None:
    """A server that is told no model answers for any: what is listed must be the one it has."""
    if remote.dialect != "tei" or remote.models is None:
        return
    names = [name for name, _ in remote.models]
    problem = ""
    if any(name.startswith("chat/") for name in names):
        problem = "does not serve chat"
    elif len({repos.get(name, name) for name in names}) > 1:
        problem = "serves one model; list only that one"
    if problem:
        raise document.error((*path, "models"), f"{dotted(path)}.models: a tei server {problem}")


def merged_settings(packaged: Source, user: Source | None) -> Settings:
    """The defaults, changed by each file's ``settings:``.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of bounds.
    """
    settings = Settings()
    for source in (packaged, user):
        if source is None:
            continue
        for group, values in (source.file.settings or {}).items():
            settings = _with_group(settings, group, values, source.document)
    return settings


def _with_group(settings: Settings, group: str, values: object, document: Document) -> Settings:
    path: Path = ("settings", group)
    if group not in SETTING_GROUPS:
        raise _unknown(document, path, SETTING_GROUPS)
    if values is None:
        return settings
    if not isinstance(values, dict):
        raise document.error(path, f"{dotted(path)} must be a mapping")
    hints = setting_hints(group)
    checked = {}
    for name, value in values.items():
        if name not in hints:
            raise _unknown(document, (*path, name), hints)
        try:
            checked[name] = checked_setting(group, name, value)
        except ValueError as error:
            raise document.error((*path, name), f"{dotted((*path, name))} {error}") from None
    changed = replace(getattr(settings, group), **checked)
    return replace(settings, **{group: changed})


def _unknown(document: Document, path: Path, known: Iterable[str]) -> Exception:
    name = str(path[-1])
    if name in LITELLM_NAMES:
        hint = f"; did you mean {LITELLM_NAMES[name]}?"
    else:
        hint = did_you_mean(name, known)
    return document.error(path, f"unknown key {shown(name)} {within(path[:-1])}{hint}")
