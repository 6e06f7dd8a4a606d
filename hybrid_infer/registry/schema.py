"""The shape of a models.yaml. The only module that imports pydantic.

Every key of an alias is optional here, since a user's file may name only what differs; what an
alias must have is checked once the files are merged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from hybrid_infer.datatypes.models import Dialect
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.document import Document, Path, dotted, within
from hybrid_infer.registry.gguf_files import gguf_file
from hybrid_infer.registry.names import (
    ALIAS_RULE,
    TASKS,
    did_you_mean,
    hub_id_problem,
    is_alias,
    shown,
)
from hybrid_infer.registry.urls import validated_base_url

RESERVED_REMOTE_NAMES = ("local", "remote", "cache")
MAX_SHOWN_PROBLEMS = 8

_REVISION = re.compile(r"[0-9a-f]{40}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SERVED_NAME = re.compile(r"[!-~]{1,200}")


def _alias(name: str) -> str:
    if not is_alias(name):
        raise ValueError(f"an alias is {ALIAS_RULE}")
    return name


def _repo(name: str) -> str:
    problem = hub_id_problem(name)
    if problem:
        raise ValueError(f"is not a Hub id: {problem}")
    if name.startswith("tiny/"):
        raise ValueError("must not start with 'tiny/', which marks the tiny profile's models")
    return name


def _revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision.lower()):
        raise ValueError("must be a commit of 40 hex digits, or null for whatever was pulled")
    return revision.lower()


def _gguf(text: str) -> str:
    gguf_file(text)
    return text


def _remote_name(name: str) -> str:
    if not is_alias(name):
        raise ValueError(f"must be {ALIAS_RULE}")
    if name in RESERVED_REMOTE_NAMES:
        raise ValueError(f"must not be one of {', '.join(RESERVED_REMOTE_NAMES)}")
    return name


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "must be the name of an environment variable, in capitals, such as MY_API_KEY; "
            "never the key itself"
        )
    return name


def _served_name(name: str) -> str:
    if not _SERVED_NAME.fullmatch(name):
        raise ValueError("must be 1 to 200 printable ASCII characters without spaces")
    return name


def _provider(name: str) -> str:
    if not _PROVIDER.fullmatch(name):
        raise ValueError("must be a provider's name, such as together, or a policy such as fastest")
    return name


Tokens = Annotated[int, Field(ge=1, le=16_777_216)]
Repo = Annotated[str, AfterValidator(_repo)]
Dtype = Literal["float16", "bfloat16", "float32"]


class Section(BaseModel):
    """Strict: a boolean is not a number, an unknown key is an error, input is never echoed.

    The defaults of optional keys only make them optional; merging reads what is `given`.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    def given(self) -> dict[str, Any]:
        """The keys that the file names, with their values."""
        return self.model_dump(exclude_unset=True)


class GenerationSection(Section):
    """``generation:`` of a chat alias; see `GenerationDefaults`."""

    max_tokens: Tokens = 1024
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class ModelEntry(Section):
    """What both tasks' aliases may say; see `ModelSpec`."""

    repo: Repo = ""
    revision: Annotated[str, AfterValidator(_revision)] | None = None
    forbidden_dtypes: Annotated[list[Dtype], Field(max_length=2)] = []
    allow_quantized: bool = False
    gated: bool = False


class ChatEntry(ModelEntry):
    """One alias under ``chat:``."""

    context_length: Tokens | None = None
    generation: GenerationSection = GenerationSection()
    gguf: Annotated[str, AfterValidator(_gguf)] | None = None
    provider: Annotated[str, AfterValidator(_provider)] | None = None


class EmbeddingsEntry(ModelEntry):
    """One alias under ``embeddings:``."""

    dim: Annotated[int, Field(ge=1, le=65_536)] | None = None
    max_seq_length: Tokens | None = None
    pooling: (
        Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] | None
    ) = None
    dense: bool | None = None
    prompt: Annotated[str, Field(max_length=4096)] | None = None


class RemoteEntry(Section):
    """One entry of ``remotes:``; see `RemoteSpec`."""

    name: Annotated[str, AfterValidator(_remote_name)]
    dialect: Dialect = "openai"
    base_url: Annotated[str, AfterValidator(validated_base_url)] = ""
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    requests_per_minute: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    models: dict[str, Annotated[str, AfterValidator(_served_name)]] | None = None


Alias = Annotated[str, AfterValidator(_alias)]


class ModelsFile(Section):
    """A whole models.yaml. ``settings:`` is checked by the settings' own bounds."""

    chat: dict[Alias, ChatEntry] | None = None
    embeddings: dict[Alias, EmbeddingsEntry] | None = None
    remotes: Annotated[list[RemoteEntry], Field(max_length=16)] | None = None
    settings: dict[str, Any] | None = None

    def entries(self, task: str) -> Mapping[str, ModelEntry]:
        """The aliases of one task."""
        return (self.chat if task == "chat" else self.embeddings) or {}


def validated_file(document: Document) -> ModelsFile:
    """`document` as a models.yaml.

    Raises:
        ConfigError: a key is unknown or a value is wrong; one line of text for each, with its
            line in the file.
    """
    try:
        return ModelsFile.model_validate(document.root.plain())
    except ValidationError as error:
        problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: document.line(problem["loc"]) or 0)
    texts = [
        str(document.error(problem["loc"], _explained(problem["loc"], problem)))
        for problem in problems[:MAX_SHOWN_PROBLEMS]
    ]
    if len(problems) > MAX_SHOWN_PROBLEMS:
        texts.append(f"and {len(problems) - MAX_SHOWN_PROBLEMS} more")
    raise ConfigError("\n".join(texts))


def _is_alias_problem(problem: ErrorDetails) -> bool:
    path = problem["loc"]
    return path[0] in TASKS and path[-1] == "[key]" and problem["type"] == "value_error"


def _explained(path: Path, problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if _is_alias_problem(problem):
        return f"{shown(str(path[-2]))} {within(path[:-2])}: {context['error']}"
    if kind == "extra_forbidden":
        hint = did_you_mean(str(path[-1]), _known_keys(path))
        return f"unknown key {shown(str(path[-1]))} {within(path[:-1])}{hint}"
    if kind == "missing":
        return f"{dotted(path[:-1])} needs '{path[-1]}'"
    if kind == "literal_error":
        value = problem["input"]
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"{dotted(path)} must be one of {', '.join(choices)}{hint}"
    explain = _EXPLANATIONS.get(kind)
    return f"{dotted(path)} {explain(context) if explain else problem['msg']}"


def _known_keys(path: Path) -> list[str]:
    section: type[Section] = ModelsFile
    if len(path) > 1:
        section = _SECTIONS[str(path[0])]
    if "generation" in path[2:-1]:
        section = GenerationSection
    return list(section.model_fields)


_SECTIONS: dict[str, type[Section]] = {
    "chat": ChatEntry,
    "embeddings": EmbeddingsEntry,
    "remotes": RemoteEntry,
}

_EXPLANATIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "value_error": lambda context: str(context["error"]),
    "string_type": lambda _: "must be text; put it in quotes",
    "int_type": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "bool_type": lambda _: "must be true or false",
    "list_type": lambda _: "must be a list",
    "dict_type": lambda _: "must be a mapping",
    "model_type": lambda _: "must be a mapping",
    "greater_than": lambda context: f"must be above {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']:,.15g}",
    "too_long": lambda context: f"must have at most {context['max_length']} entries",
    "string_too_long": lambda context: f"must have at most {context['max_length']} characters",
}
