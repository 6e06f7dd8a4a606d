"""Options that several commands share, and the client that they describe.

The API key is not among them: words on a command line are visible to every user of a machine.
It comes from the environment or a saved login.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_infer.settings import Policy

if TYPE_CHECKING:
    from hybrid_infer import HybridClient

WHERE = "Where it runs"

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Alias (default, small, large …) or Hub id (org/name).")
]
PolicyOption = Annotated[
    Policy | None,
    typer.Option(
        metavar="POLICY",
        help="remote-first (default), local-first, remote-only or local-only.",
        rich_help_panel=WHERE,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="'tiny': small seeded models that need no download.",
        rich_help_panel=WHERE,
    ),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--models",
        metavar="FILE",
        help="A models.yaml merged over the packaged one.",
        rich_help_panel=WHERE,
    ),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Replaces the huggingface remote's URL.", rich_help_panel=WHERE
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=WHERE),
]
DtypeOption = Annotated[
    str,
    typer.Option(metavar="DTYPE", help="auto, float32, bfloat16, float16.", rich_help_panel=WHERE),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Load or fetch only what is pinned to a commit and listed in models.lock.",
        rich_help_panel=WHERE,
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="Bound of a whole call, all attempts.", rich_help_panel=WHERE
    ),
]
RouteOption = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET", help="'local', 'remote', or a remote's name.", rich_help_panel=WHERE
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Do not say on stderr who served.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")]


def open_client(*, strict: bool = False, **arguments: Any) -> HybridClient:
    """A client made of the options that were given; the others keep the client's defaults.

    Args:
        strict: whether ``settings.trust.strict`` is set, whatever models.yaml says.
        **arguments: the client's.

    Raises:
        ConfigError: an option's value is wrong.
    """
    from hybrid_infer import HybridClient

    given = {name: value for name, value in arguments.items() if value is not None}
    return HybridClient(**given, **strict_settings(given) if strict else {})


def strict_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The client's ``settings=``: those of its models.yaml, but strict.

    Args:
        arguments: the client's others.

    Raises:
        ConfigError: models.yaml is wrong.
    """
    from dataclasses import replace

    from hybrid_infer.registry import load_registry
    from hybrid_infer.settings import TrustSettings

    settings = load_registry(
        arguments.get("models"),
        profile=arguments.get("profile"),
        base_url=arguments.get("base_url"),
    ).settings
    return {"settings": replace(settings, trust=TrustSettings(strict=True))}
