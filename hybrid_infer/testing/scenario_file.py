"""`load_scenario`: a scenario.yaml, or the same as a mapping, into a `Scenario`."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hybrid_infer.datatypes.models import Task
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.document import Document, document_from_mapping, dotted, within
from hybrid_infer.registry.names import did_you_mean, shown
from hybrid_infer.registry.yaml_source import MAX_FILE_BYTES, parse_yaml
from hybrid_infer.testing.scenario import Match, Reply, Scenario, Step
from hybrid_infer.testing.sse import UNSET, Event

MAX_SHOWN_PROBLEMS = 8
MAX_DRIP_SECONDS = 3600.0


def _latin1(text: str) -> str:
    if not text.isascii():
        raise ValueError("must be ASCII; other bytes are written as base64")
    return text


def _decodable(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not valid base64") from None
    return text


Count: TypeAlias = Annotated[int, Field(ge=0, le=2**40)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=MAX_DRIP_SECONDS)]
Base64: TypeAlias = Annotated[str, AfterValidator(_decodable)]


class Section(BaseModel):
    """Strict: a boolean is not a number, an unknown key is an error, input is never echoed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class MatchSection(Section):
    """``match:``; see `Match`."""

    method: str | None = None
    path: str | None = None
    model: str | None = None
    task: Task | None = None
    stream: bool | None = None


class DripSection(Section):
    """``drip:``: so many bytes, then a pause."""

    bytes: Annotated[int, Field(ge=1, le=2**30)]
    interval_seconds: Seconds


class EventSection(Section):
    """One of ``events:``; see `Event`."""

    content: str | None = None
    finish_reason: str | None = None
    error: Any = UNSET
    json_: Any = Field(default=UNSET, alias="json")
    data: str | None = None
    raw: Annotated[str, AfterValidator(_latin1)] | None = None
    event: Annotated[str, Field(pattern=r"^[^\r\n]*$")] | None = None

    def made(self) -> Event:
        """The event; raises `ConfigError` where keys exclude each other."""
        return Event(
            content=self.content,
            finish_reason=self.finish_reason,
            error=self.error,
            json=self.json_,
            data=self.data,
            raw=None if self.raw is None else self.raw.encode(),
            event=self.event,
        )


class StepSection(Section):
    """One of ``steps:``; see `Step` and `Reply`."""

    match: MatchSection = MatchSection()
    times: Annotated[int, Field(ge=1)] | Literal["forever"] = 1
    healthy: Literal[True] | None = None
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    headers: dict[str, str | int | list[str]] | None = None
    json_: Any = Field(default=UNSET, alias="json")
    text: str | None = None
    base64: Base64 | None = None
    events: list[str | EventSection] | None = None
    raw: Annotated[str, AfterValidator(_latin1)] | None = None
    retry_after: float | int | str | None = None
    cut_after_bytes: Count | None = None
    cut_after_events: Count | None = None
    clean_end: bool = False
    reset: bool = False
    stall_after_bytes: Count | None = None
    stall_after_events: Count | None = None
    drip: DripSection | None = None
    disconnect: bool = False
    close: bool = False
    down_seconds: Seconds | None = None

    def made(self) -> Step:
        """The step; raises `ConfigError` where keys exclude each other, or do nothing."""
        if not self.model_fields_set - {"match", "times"}:
            raise ConfigError("says nothing to do; write 'healthy: true' for the healthy answer")
        reply = Reply(
            status=self.status,
            headers={
                k: v if isinstance(v, list) else str(v) for k, v in (self.headers or {}).items()
            },
            json=self.json_,
            body=self._body(),
            events=None if self.events is None else [_event(item) for item in self.events],
            raw=None if self.raw is None else self.raw.encode(),
            retry_after=self.retry_after,
            drip_bytes=self.drip.bytes if self.drip else 0,
            drip_seconds=self.drip.interval_seconds if self.drip else 0.0,
            **{name: getattr(self, name) for name in _SAME},
        )
        if self.healthy and not reply.is_healthy:
            raise ConfigError("healthy excludes a status and a body")
        times = None if self.times == "forever" else self.times
        return Step(reply, Match(**self.match.model_dump()), times)

    def _body(self) -> bytes | str | None:
        if self.text is not None and self.base64 is not None:
            raise ConfigError("text and base64 cannot both be the body")
        return self.text if self.base64 is None else base64.b64decode(self.base64)


_SAME = (
    "cut_after_bytes",
    "cut_after_events",
    "clean_end",
    "reset",
    "stall_after_bytes",
    "stall_after_events",
    "disconnect",
    "close",
    "down_seconds",
)


def _event(item: str | EventSection) -> Event:
    return Event(data=item) if isinstance(item, str) else item.made()


class ScenarioSection(Section):
    """A whole scenario.yaml."""

    steps: Annotated[list[StepSection], Field(max_length=1000)]


def load_scenario(source: str | os.PathLike[str] | Mapping[str, Any]) -> Scenario:
    """Read a scenario.

    The keys of a step are those of `Reply`, with ``text`` or ``base64`` for its body and
    ``drip: {bytes, interval_seconds}``, and those of `Step`: ``match`` and ``times`` (a count,
    or ``forever``)::

        steps:
          - times: 3
            healthy: true
          - match: {task: chat, stream: true}
            cut_after_events: 2
            reset: true
          - times: forever
            status: 429
            retry_after: 30
            json: {error: Too many requests}

    Args:
        source: the path of a YAML file, or the same as a mapping.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value is wrong; one line of
            text for each, starting with the path and line.
    """
    if isinstance(source, Mapping):
        document = document_from_mapping("scenario", source)
    else:
        document = parse_yaml(os.fsdecode(source), _file_bytes(source))
    try:
        section = ScenarioSection.model_validate(document.root.plain())
    except ValidationError as error:
        raise ConfigError(_explained(document, error)) from None
    steps = []
    for index, step in enumerate(section.steps):
        try:
            steps.append(step.made())
        except ConfigError as error:
            problem = f"steps[{index}] {error.message}"
            raise document.error(("steps", index), problem) from None
    return Scenario(tuple(steps))


def _file_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - takes every kind of path as it is
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"scenario {shown(os.fsdecode(path))}: {error.strerror}") from None


def _explained(document: Document, error: ValidationError) -> str:
    """A line for each problem, in the order of the file."""
    lines: dict[tuple[int, str], None] = {}
    for problem in error.errors(include_url=False, include_input=False):
        path = tuple(step for step in problem["loc"] if not _is_union_tag(step))
        kind, name = problem["type"], str(path[-1]) if path else ""
        if kind == "extra_forbidden":
            known = did_you_mean(name, _known_keys(path))
            message = f"unknown key {shown(name)} {within(path[:-1])}{known}"
        elif kind == "missing":
            message = f"{dotted(path[:-1]) or 'the scenario'} needs '{name}'"
        else:
            message = f"{dotted(path)}: {_plain(problem['msg'])}"
        lines[document.line(path) or 0, str(document.error(path, message))] = None
    texts = [text for _, text in sorted(lines, key=lambda entry: entry[0])]
    if len(texts) > MAX_SHOWN_PROBLEMS:
        texts[MAX_SHOWN_PROBLEMS:] = [f"and {len(texts) - MAX_SHOWN_PROBLEMS} more"]
    return "\n".join(texts)


def _is_union_tag(step: str | int) -> bool:
    """Whether pydantic put `step` into a path to name a member of a union."""
    return isinstance(step, str) and (
        step in ("str", "int", "float", "EventSection")
        or step.startswith(("literal[", "list[", "constrained"))
    )


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should", "should")


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    section: type[Section] = ScenarioSection
    if len(path) > 1:
        section = StepSection
        if path[2] in _SECTIONS:
            section = _SECTIONS[str(path[2])] if len(path) > 3 else StepSection  # noqa: PLR2004 - steps[i].events[j].key
    return [field.alias or name for name, field in section.model_fields.items()]


_SECTIONS: dict[str | int, type[Section]] = {
    "match": MatchSection,
    "drip": DripSection,
    "events": EventSection,
}
