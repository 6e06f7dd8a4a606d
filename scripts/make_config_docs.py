"""Write docs/configuration.md from the schema and its docstrings. Run it after any change of them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the checkout, installed or not

PATH = ROOT / "docs" / "configuration.md"
HEAD = """\
# Configuration

Made by `scripts/make_config_docs.py` from `registry/schema.py`, `settings.py` and the docstrings that
the code itself carries. What wins, first to last:

1. an argument of the call (`model=`, `route=`, `deadline=` …),
2. an argument of `HybridClient(…)`, or the option of a command,
3. an environment variable,
4. your own `models.yaml`, merged over
5. the packaged one, whose comments explain each section: copy what you change, not all of it.

A name that is misspelt, or a value out of bounds, is a `ConfigError` that names the place and the
nearest right name. `hybrid-infer doctor` shows what is in force on a machine, and `hybrid-infer models`
what the aliases mean.
"""
MODELS_HEAD = """\
## models.yaml

`HYBRID_INFER_MODELS` or `models=` names your file. It holds only what differs: aliases are merged key by
key, `settings:` one by one, and a list of `remotes:` replaces the packaged list. An alias with another
`repo` starts afresh.

```yaml
chat:
  small:
    generation:
      max_tokens: 256
embeddings:
  mine:
    repo: BAAI/bge-small-en-v1.5
settings:
  routing:
    chat_timeout_seconds: 60
```
"""
KEYS = (
    "`HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the saved login (`hf auth login`), `HUGGINGFACE_API_KEY`, "
    "`HUGGINGFACEHUB_API_TOKEN`"
)
ELSEWHERE = f"""\
Keys are looked for in this order: {KEYS}. They go to Hugging Face's hosts and to this machine only; any
other remote has its own `key_env`.

The Hub's own variables are honoured, because models lie in the Hub's own cache: `HF_HOME`,
`HF_HUB_CACHE`, `HF_ENDPOINT`, and `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`, which take Hugging Face's
hosts out of every plan and forbid downloads. Proxies are `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
"""


def page() -> str:
    """The whole page."""
    from hybrid_infer import HybridClient
    from hybrid_infer.datatypes.models import GenerationDefaults, ModelSpec, RemoteSpec
    from hybrid_infer.registry import schema
    from hybrid_infer.settings import SETTING_GROUPS

    about_models = described(ModelSpec, "Attributes")
    about_models["gguf"] = "a GGUF file that is the local copy, see [GGUF files](gguf.md)"
    about_remotes = described(RemoteSpec, "Attributes")
    parts = [
        HEAD,
        "## Arguments of a client\n",
        "Of `HybridClient` and `AsyncHybridClient` alike.\n",
        table(("argument", "meaning"), argument_rows(HybridClient)),
        "## Environment variables\n",
        table(("variable", "what it sets"), variable_rows()),
        ELSEWHERE,
        MODELS_HEAD,
        "### Every alias, under `chat:` or `embeddings:`\n",
        section(schema.ModelEntry, about_models),
        "### Chat aliases, besides\n",
        section(schema.ChatEntry, about_models, without=schema.ModelEntry),
        "`generation:` is what an option means that a call leaves out, here and at the remote:\n",
        section(schema.GenerationSection, described(GenerationDefaults, "Attributes")),
        "### Embeddings aliases, besides\n",
        "`prompt` apart, these assert what the model's own files say; a disagreement is an error.\n",
        section(schema.EmbeddingsEntry, about_models, without=schema.ModelEntry),
        "### Each of `remotes:`\n",
        "In the order in which they are tried; see [remotes](remotes.md).\n",
        section(schema.RemoteEntry, about_remotes),
    ]
    for group, kind in SETTING_GROUPS.items():
        parts += [f"### Settings: {group}\n", summary(kind) + "\n", settings_table(group, kind)]
    return "\n".join(parts)


def described(kind: type, heading: str) -> dict[str, str]:
    """What the docstring of `kind` says of each name under a heading of Google's style."""
    text = inspect.getdoc(kind) or ""
    block = re.search(rf"^{heading}:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.split(r"\n(?=    \S)", block[1]) if block else []
    named = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {name: told.removesuffix(".") for name, _, told in named}


def summary(kind: type) -> str:
    """The first paragraph of a docstring."""
    return in_markdown(" ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split()))


def in_markdown(text: str) -> str:
    """A docstring's words, whose code is in two backticks, in a table's cell."""
    return re.sub(r"``(.+?)``", r"`\1`", text).replace("|", "\\|")


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def argument_rows(client: type) -> Iterator[tuple[str, ...]]:
    """The constructor's arguments with their defaults."""
    parameters = inspect.signature(client).parameters
    for name, told in described(client, "Args").items():
        yield f"`{name}={parameters[name].default!r}`", in_markdown(told)


def variable_rows() -> Iterator[tuple[str, ...]]:
    """The variables that stand in for arguments, and the two that have none."""
    from hybrid_infer.registry import EnvironmentOptions
    from hybrid_infer.server.options import KEY_VARIABLE
    from hybrid_infer.settings import POLICIES
    from hybrid_infer.snapshots.folders import CACHE_VARIABLE

    values = {"profile": "`tiny`", "policy": ", ".join(f"`{policy}`" for policy in POLICIES)}
    for name, told in described(EnvironmentOptions, "Attributes").items():
        variable, _, about = in_markdown(told).partition(" ")
        about = about or values[name]
        yield variable.rstrip(":,"), f"`{name}`: {about}"
    yield (
        f"`{CACHE_VARIABLE}`",
        (
            "where seeded models and demo weights are kept (default `~/.cache/hybrid_infer`); real "
            "models are in the Hub's cache"
        ),
    )
    yield f"`{KEY_VARIABLE}`", "the key that `serve` asks for, and that `status` sends"


def section(kind: Any, about: dict[str, str], without: Any = None) -> str:
    """The keys of one section of models.yaml."""
    schema = kind.model_json_schema()
    left_out = () if without is None else without.model_fields
    rows = [
        (f"`{name}`", allowed(found), default(name, found, kind), meaning(about[name]))
        for name, found in schema["properties"].items()
        if name not in left_out
    ]
    return table(("key", "value", "default", "meaning"), rows)


def meaning(told: str) -> str:
    """A meaning without the task that the heading tells already."""
    return in_markdown(re.sub(r"^(chat|embeddings): ", "", told))


def default(name: str, found: dict[str, Any], kind: Any) -> str:
    """A key's default; one that is made up to be optional is none."""
    value = found.get("default")
    if name in ("name", "repo", "dialect", "base_url"):
        return "required"
    if value in (None, "", []) or isinstance(value, dict):
        return "" if kind.__name__ != "RemoteEntry" or name != "models" else "all"
    return f"`{str(value).lower()}`"


def allowed(found: dict[str, Any]) -> str:
    """What a JSON schema lets a value be, in words."""
    if "anyOf" in found:
        return allowed(next(kind for kind in found["anyOf"] if kind["type"] != "null"))
    if "$ref" in found:
        return "see below"
    if "enum" in found:
        return ", ".join(f"`{choice}`" for choice in found["enum"])
    kind = found["type"]
    if kind == "array":
        return f"list of {allowed(found['items'])}"
    if kind == "object":
        return "mapping of names"
    noun = {"string": "text", "boolean": "`true`, `false`", "integer": "whole number"}.get(kind)
    return " ".join(filter(None, (noun or "number", bounds(found))))


def bounds(found: dict[str, Any]) -> str:
    """The bounds of a JSON schema in words."""
    low = f"from {found['minimum']:,}" if "minimum" in found else ""
    if "exclusiveMinimum" in found:
        low = f"above {found['exclusiveMinimum']:,}"
    if "maximum" not in found:
        return low
    return f"{low} to {found['maximum']:,.15g}".strip()


def settings_table(group: str, kind: type) -> str:
    """The settings of one group."""
    from hybrid_infer.settings import setting_hints

    about, hints = described(kind, "Attributes"), setting_hints(group)
    rows = []
    for entry in fields(kind):
        assert entry.default is not MISSING  # noqa: S101 - a setting without a default is a defect
        shown = "" if entry.default is None else f"`{yaml_of(entry.default)}`"
        rows.append(
            (f"`{entry.name}`", admitted(hints[entry.name]), shown, meaning(about[entry.name]))
        )
    return table(("setting", "value", "default", "meaning"), rows)


def admitted(hint: Any) -> str:
    """What a setting's annotation lets it be, in words."""
    if NoneType in get_args(hint):
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if hint is bool:
        return "`true`, `false`"
    kind, limits = get_args(hint)
    return f"{'whole number' if kind is int else 'number'} {limits}"


def yaml_of(value: object) -> str:
    """A default as YAML has it."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Write the page."""
    PATH.write_text(page(), encoding="utf-8")
    print(PATH.relative_to(ROOT))


if __name__ == "__main__":
    main()
