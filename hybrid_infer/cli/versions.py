"""Installed versions against the floors that the package's own metadata states."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib import metadata

DISTRIBUTION = "hybrid-infer"
# Packages that come with others, or with an extra, and were unsafe below; see docs/dependencies.md.
SECURITY_FLOORS = {"h11": ">=0.16", "jinja2": ">=3.1.6", "starlette": ">=1.0.1"}
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)\s*(?P<specifiers>[^;]*)(?P<marker>;.*)?$")
_FLOOR = re.compile(r">=\s*([0-9.]+)")
_CEILING = re.compile(r"<\s*([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Version:
    """One distribution.

    Attributes:
        name: as it is installed with pip.
        installed: its version, or None if it is missing.
        required: the range it must be in, as its specifiers say.
        ok: whether it is.
    """

    name: str
    installed: str | None
    required: str
    ok: bool


def installed_versions() -> list[Version]:
    """Python, this package, its direct dependencies, and others that were unsafe once."""
    own = metadata.metadata(DISTRIBUTION)
    python = own["Requires-Python"] or ""
    found = [
        _judge("python", platform.python_version(), python),
        Version(DISTRIBUTION, own["Version"], "", ok=True),
    ]
    for requirement in sorted(metadata.requires(DISTRIBUTION) or ()):
        match = _REQUIREMENT.match(requirement)
        if match and "extra ==" not in (match["marker"] or ""):
            found.append(_judge(match["name"], _installed(match["name"]), match["specifiers"]))
    for name, specifiers in SECURITY_FLOORS.items():
        if (installed := _installed(name)) is not None:
            found.append(_judge(name, installed, specifiers))
    return found


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _judge(name: str, installed: str | None, specifiers: str) -> Version:
    specifiers = specifiers.strip()
    if installed is None:
        return Version(name, None, specifiers, ok=False)
    floor, ceiling = _FLOOR.search(specifiers), _CEILING.search(specifiers)
    ok = (floor is None or _numbers(installed) >= _numbers(floor[1])) and (
        ceiling is None or _numbers(installed) < _numbers(ceiling[1])
    )
    return Version(name, installed, specifiers, ok=ok)


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, without trailing zeros: 2.13.0+cpu is (2, 13)."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
