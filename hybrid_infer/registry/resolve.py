"""`Registry`: from what a caller writes to the model that is meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec, Task
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.registry.environment import Profile
from hybrid_infer.registry.names import TASKS, did_you_mean, hub_id_problem, shown
from hybrid_infer.registry.tiny import TINY_PREFIX, tiny_repo
from hybrid_infer.settings import Settings


@dataclass(frozen=True, slots=True)
class Registry:
    """The models, remotes and settings of one client.

    Attributes:
        models: every alias that can be served, in file order. Under the tiny profile these are
            the seeded twins, and an alias whose repo has none is not among them.
        remotes: in the order in which they are tried.
        settings: from ``settings:``, else the defaults.
        profile: ``"tiny"``, or None.
        originals: under the tiny profile the real models behind the aliases, else the same as
            `models`.
    """

    models: tuple[ModelSpec, ...]
    remotes: tuple[RemoteSpec, ...]
    settings: Settings
    profile: Profile | None
    originals: tuple[ModelSpec, ...]

    def resolve(self, task: Task, model: str) -> ModelSpec:
        """The model that `model` means to a method of `task`.

        Args:
            task: the task that the method implies.
            model: an alias (``small``), an alias with its task (``embeddings/small``), or a Hub
                id (``org/name``). A Hub id that an alias of the task also names is that alias's
                model, pin and limits included; any other has no pin. Under the tiny profile
                only Hub ids of aliases are known.

        Raises:
            InvalidRequestError: there is no such model; ``argument`` is ``"model"``.
        """
        name = _text(model)
        prefix, slash, rest = name.partition("/")
        if slash and prefix in TASKS:
            if prefix != task:
                raise _invalid(f"{shown(name)} is not for {task}: write an alias or Hub id of it")
            name = rest
        if "/" in name:
            return self._by_hub_id(task, name)
        spec = self._by_alias(task, name)
        if spec is None:
            raise self._unknown_alias((task,), name)
        return spec

    def resolve_named(self, name: str, task: Task = "chat") -> ModelSpec:
        """The model that a command such as ``pull`` is given, where no task is implied.

        Args:
            name: an alias with its task (``embeddings/small``), an alias that only one task
                has (``agent``), or a Hub id.
            task: the task of a Hub id that no alias names; once its files are there, the
                caller knows better (``modules.json`` means embeddings).

        Raises:
            InvalidRequestError: there is no such model, or the alias means two.
        """
        text = _text(name)
        prefix = text.partition("/")[0]
        if "/" in text:
            for known in TASKS:
                if prefix == known:
                    return self.resolve(known, text)
            named = [spec for spec in self._of_repo(text) if spec.alias]
            return named[0] if named else self._by_hub_id(task, text)
        found = [spec for spec in (self._by_alias(known, text) for known in TASKS) if spec]
        if len(found) > 1:
            meant = " and ".join(f"{spec.name} ({spec.repo})" for spec in found)
            raise _invalid(f"{shown(text)} names two models, {meant}; write which one")
        if not found:
            raise self._unknown_alias(TASKS, text)
        return found[0]

    def _by_alias(self, task: Task, alias: str) -> ModelSpec | None:
        for spec in self.models:
            if spec.alias == alias and spec.task == task:
                return spec
        return None

    def _of_repo(self, repo: str) -> Iterator[ModelSpec]:
        wanted = {repo}
        if any(spec.repo == repo for spec in self.originals) and self.profile == "tiny":
            wanted.add(tiny_repo(repo))
        return (spec for spec in self.models if spec.repo in wanted)

    def _by_hub_id(self, task: Task, repo: str) -> ModelSpec:
        problem = hub_id_problem(repo)
        if problem:
            raise _invalid(f"{shown(repo)} is not a model: {problem}")
        for spec in self._of_repo(repo):
            if spec.task == task:
                return spec
        if self.profile == "tiny":
            raise self._no_twin(repo)
        if repo.startswith(TINY_PREFIX):
            raise _invalid(f"{shown(repo)} is seeded, and served only with profile='tiny'")
        return ModelSpec(task=task, alias=None, repo=repo, revision=None)

    def _unknown_alias(self, tasks: tuple[Task, ...], alias: str) -> InvalidRequestError:
        for spec in self.originals:
            if spec.alias == alias and spec.task in tasks:
                return self._no_twin(spec.repo)
        bare = len(tasks) == 1
        known = [
            (spec.alias or "") if bare else spec.name for spec in self.models if spec.task in tasks
        ]
        hint = did_you_mean(alias, [spec.alias or "" for spec in self.models if spec.task in tasks])
        elsewhere = [spec.name for spec in self.models if spec.alias == alias]
        if elsewhere:
            hint = f"; {elsewhere[0]} is another task's"
        kind = f"{tasks[0]} alias" if bare else "alias"
        return _invalid(
            f"unknown {kind} {shown(alias)}{hint}; known: {', '.join(known)}, "
            "or any Hub id as org/name"
        )

    def _no_twin(self, repo: str) -> InvalidRequestError:
        known = ", ".join(dict.fromkeys(spec.repo for spec in self.models))
        return _invalid(f"the tiny profile has no seeded model for {shown(repo)}; it has {known}")


def _text(model: object) -> str:
    if not isinstance(model, str):
        raise _invalid(f"model must be text, not {type(model).__name__}")
    if not model:
        raise _invalid("model is empty; write an alias or a Hub id as org/name")
    return model


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, argument="model")
