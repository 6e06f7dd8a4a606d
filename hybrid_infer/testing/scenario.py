"""Scripts for a fake remote, in Python or as a scenario.yaml.

A scenario is a list of steps, each a reply with ``times:`` (a count, or ``forever``)::

    steps:
      - times: 3                    # the first three requests get healthy answers
      - status: 429
        retry_after: 30
        json: {error: Too many requests}
      - path: "*/feature-extraction"
        times: forever
        cut_after_bytes: 100
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hybrid_infer.errors import ConfigError
from hybrid_infer.testing.messages import ReceivedRequest, Reply

MAX_SCENARIO_BYTES = 1024 * 1024
_STEP_KEYS = frozenset({"times", "retry_after"})


@dataclass(frozen=True, slots=True)
class Step:
    """A reply, and how often it is given: a count, or ``"forever"``."""

    reply: Reply
    times: int | Literal["forever"] = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps in order; each request takes the first that matches it and is not used up."""

    steps: tuple[Step, ...]

    def replies(self) -> list[Reply]:
        """The counted replies, one entry a use."""
        return [
            step.reply
            for step in self.steps
            if step.times != "forever"
            for _ in range(int(step.times))
        ]

    def forever(self, request: ReceivedRequest) -> Reply | None:
        """The standing reply to `request`, once the counted ones are used up."""
        for step in self.steps:
            if step.times == "forever" and step.reply.matches(request):
                return step.reply
        return None


def load_scenario(source: str | os.PathLike[str] | Mapping[str, Any]) -> Scenario:
    """Read a scenario.

    Args:
        source: the path of a YAML file, or the same as a mapping.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    if isinstance(source, Mapping):
        return _scenario(source, "scenario")
    path = Path(source)
    import yaml

    try:
        if path.stat().st_size > MAX_SCENARIO_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_SCENARIO_BYTES:,} bytes")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} must hold a mapping with 'steps'")
    return _scenario(document, str(path))


def _scenario(document: Mapping[str, Any], where: str) -> Scenario:
    steps = document.get("steps")
    if set(document) != {"steps"} or not isinstance(steps, list):
        raise ConfigError(f"{where} must hold one key, 'steps', with a list")
    return Scenario(tuple(_step(step, f"{where}: steps[{i}]") for i, step in enumerate(steps)))


def _step(step: Any, where: str) -> Step:
    if not isinstance(step, Mapping):
        raise ConfigError(f"{where} must be a mapping")
    known = {field.name for field in fields(Reply)} | _STEP_KEYS
    unknown = sorted(str(key) for key in set(step) - known)
    if unknown:
        raise ConfigError(f"{where} has an unknown key {unknown[0]!r}; known: {sorted(known)}")
    times = step.get("times", 1)
    if times != "forever" and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
        raise ConfigError(f"{where}.times must be a count or 'forever', not {times!r}")
    values = {str(key): value for key, value in step.items() if key not in _STEP_KEYS}
    reply = Reply(**_checked(values, where))
    if "retry_after" in step:
        reply = replace(reply, headers={"Retry-After": str(step["retry_after"]), **reply.headers})
    return Step(reply, times)


_TYPES: dict[str, tuple[type, ...]] = {
    "status": (int,),
    "headers": (Mapping,),
    "body": (str, bytes),
    "events": (list,),
    "cut_after_bytes": (int,),
    "cut_after_events": (int,),
    "clean_end": (bool,),
    "stall_after_bytes": (int,),
    "drip_bytes": (int,),
    "drip_seconds": (int, float),
    "disconnect": (bool,),
    "reset": (bool,),
    "path": (str,),
}


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of the right type; header values become text.

    Raises:
        ConfigError: one is not.
    """
    for key, value in values.items():
        types = _TYPES.get(key)
        is_wrong_bool = isinstance(value, bool) and types is not None and bool not in types
        if types is not None and (is_wrong_bool or not isinstance(value, types)):
            wanted = " or ".join(kind.__name__ for kind in types)
            raise ConfigError(f"{where}.{key} must be {wanted}, not {value!r}")
        if key.endswith(("_bytes", "_events", "_seconds", "status")) and value < 0:
            raise ConfigError(f"{where}.{key} must not be negative")
    checked = dict(values)
    if "headers" in checked:
        checked["headers"] = {str(k): str(v) for k, v in checked["headers"].items()}
    return checked
