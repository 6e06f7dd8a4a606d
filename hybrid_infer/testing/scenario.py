"""What a fake remote can be told to do: replies, and steps that choose between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from hybrid_infer.datatypes.models import Task
from hybrid_infer.errors import ConfigError
from hybrid_infer.testing.sse import UNSET, Event, as_event

if TYPE_CHECKING:
    from hybrid_infer.testing.messages import ReceivedRequest


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BODIES = ("body", "events", "raw")
_COUNTS = (
    "cut_after_bytes",
    "cut_after_events",
    "stall_after_bytes",
    "stall_after_events",
    "drip_bytes",
    "drip_seconds",
    "down_seconds",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer. What is left out stays as the healthy answer has it.

    With a body (`json`, `body`, `events`) that body is sent; with an error status and no body,
    the words that Hugging Face uses for it; with neither, the healthy answer. The faults apply
    to whichever it is. `Reply()` is the healthy answer itself.

    Attributes:
        status: the HTTP status.
        headers: a mapping (a list of values repeats the header) or pairs; they replace the
            headers that would be sent under the same name, ``content-length`` included.
        json: a JSON body; None is sent as ``null``.
        body: a body as bytes, or as text.
        events: a stream of server-sent events, in HTTP chunks: `Event` objects, or text (sent
            after ``data:``), mappings (as JSON) and bytes (as they are). Nothing is added: a
            whole stream ends with ``"[DONE]"``.
        raw: the bytes of the whole response, head included; then the connection is closed.
        retry_after: seconds or an HTTP date for ``Retry-After``; the status is then 429 unless
            one is given.
        cut_after_bytes: close once that many bytes of the response, head included, are sent.
        cut_after_events: close once that many events are sent; of no effect on an answer that
            is not a stream.
        clean_end: end a stream that is cut by `cut_after_events` with the last chunk of HTTP,
            and keep the connection: it looks whole, and is not.
        reset: cut, or disconnect, with a TCP reset instead of a close.
        stall_after_bytes: send that many bytes, then nothing, until the client goes, or
            `FakeRemote.release`, `reset`, `go_down` or `close`.
        stall_after_events: the same, counted in events.
        drip_bytes: bytes sent at a time; 0: as many as there are.
        drip_seconds: pause after each `drip_bytes`.
        disconnect: close without a byte.
        close: close the connection after a whole answer, without having announced it.
        down_seconds: disconnect, stop listening, and come back after that time.
    """

    status: int | None = None
    headers: Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str]] = ()
    json: Any = UNSET
    body: bytes | str | None = None
    events: Sequence[Event | str | bytes | Mapping[str, Any]] | None = None
    raw: bytes | None = None
    retry_after: float | str | None = None
    cut_after_bytes: int | None = None
    cut_after_events: int | None = None
    clean_end: bool = False
    reset: bool = False
    stall_after_bytes: int | None = None
    stall_after_events: int | None = None
    drip_bytes: int = 0
    drip_seconds: float = 0.0
    disconnect: bool = False
    close: bool = False
    down_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.retry_after is not None and self.status is None:
            object.__setattr__(self, "status", 429)
        object.__setattr__(self, "headers", tuple(_header_pairs(self.headers)))
        if self.events is not None:
            object.__setattr__(self, "events", tuple(as_event(item) for item in self.events))
        self._check()

    def _check(self) -> None:
        pairs = self.header_pairs
        if self.status is not None and not 200 <= self.status <= 599:  # noqa: PLR2004 - HTTP's range
            raise ConfigError(f"status must be from 200 to 599, not {self.status}")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must not be negative or infinite, but is {value}")
        bodies = [name for name in _BODIES if getattr(self, name) is not None]
        bodies += ["json"] if self.json is not UNSET else []
        if len(bodies) > 1:
            raise ConfigError(f"{bodies[0]} and {bodies[1]} cannot both be the body")
        if self.raw is not None and (self.status is not None or pairs):
            raise ConfigError("raw is the whole response: it has no status and headers beside it")
        if self.clean_end and self.cut_after_events is None:
            raise ConfigError("clean_end needs cut_after_events")
        if self.clean_end and self.reset:
            raise ConfigError("clean_end and reset exclude each other")
        is_cut = self.cut_after_bytes is not None or self.cut_after_events is not None
        if self.reset and not (is_cut or self.disconnect):
            raise ConfigError("reset needs cut_after_bytes, cut_after_events or disconnect")

    @property
    def header_pairs(self) -> list[tuple[str, str]]:
        """`headers` and `retry_after`, one pair a line."""
        pairs = _header_pairs(self.headers)
        if self.retry_after is not None:
            pairs.append(("retry-after", f"{self.retry_after}"))
        return pairs

    @property
    def event_list(self) -> tuple[Event, ...] | None:
        """`events`, each as an `Event`; None if the reply brings none."""
        return None if self.events is None else tuple(as_event(item) for item in self.events)

    @property
    def has_body(self) -> bool:
        """Whether the reply brings a body of its own."""
        return self.json is not UNSET or any(
            part is not None for part in (self.body, self.events, self.raw)
        )

    @property
    def is_healthy(self) -> bool:
        """Whether what is sent is the healthy answer, whatever becomes of it on its way."""
        return not self.has_body and self.status in (None, 200)


def _header_pairs(headers: Any) -> list[tuple[str, str]]:
    items = list(headers.items() if isinstance(headers, Mapping) else headers)
    pairs: list[tuple[str, str]] = []
    for item in items:
        name, value = item if isinstance(item, tuple) and len(item) == 2 else (None, None)  # noqa: PLR2004 - a pair
        values = [value] if isinstance(value, str) else value
        if not isinstance(name, str) or not isinstance(values, list | tuple):
            raise ConfigError("headers must be a mapping of text to text, or pairs of texts")
        pairs += [(name, _checked_header(name, one)) for one in values]
    return pairs


def _checked_header(name: str, value: Any) -> str:
    if not _TOKEN.fullmatch(name):
        raise ConfigError(f"{name!r} is not a header's name")
    if not isinstance(value, str) or not re.fullmatch(r"[^\r\n\0]*", value):
        raise ConfigError(f"header {name} must be one line of text")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise ConfigError(f"header {name} holds a character outside Latin-1") from None
    return value


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a step is for. What is left out matches everything.

    Attributes:
        method: ``"POST"``, ``"GET"``, in any case.
        path: a glob on the decoded path without its query; ``*`` also crosses slashes.
        model: a glob on the model that the path or the body names.
        task: ``"chat"`` or ``"embeddings"``.
        stream: whether the body asks for a stream.
    """

    method: str | None = None
    path: str | None = None
    model: str | None = None
    task: Task | None = None
    stream: bool | None = None

    def admits(self, request: ReceivedRequest) -> bool:
        """Whether `request` is meant."""
        return (
            (self.method is None or self.method.upper() == request.method.upper())
            and (self.path is None or fnmatchcase(request.path, self.path))
            and (self.model is None or fnmatchcase(request.model or "", self.model))
            and (self.task is None or self.task == request.task)
            and (self.stream is None or self.stream == request.stream)
        )


ANY_REQUEST = Match()


@dataclass(frozen=True, slots=True)
class Step:
    """A reply, whom it is for, and how often it is given; `times` None means for ever."""

    reply: Reply
    match: Match = ANY_REQUEST
    times: int | None = 1

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ConfigError(f"times must be at least 1, or None for ever, not {self.times}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps in order: each request takes the first that admits it and is not used up.

    A request that none admits gets the healthy answer. `load_scenario` reads one from a file.
    """

    steps: tuple[Step, ...] = ()
