"""Server-sent events as a fake remote writes them."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from hybrid_infer.errors import ConfigError


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset.UNSET


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. Exactly one of its fields but `event` and `finish_reason` is given.

    Attributes:
        content: a chat chunk that adds this text.
        finish_reason: makes it a chat chunk that ends the answer, with or without `content`.
        error: an event whose JSON is ``{"error": …}``.
        json: any other JSON after ``data:``.
        data: text after ``data:``, one such line for each of its lines.
        raw: bytes that are sent as they are, for instance a comment.
        event: the event's name; left out, it has none.
    """

    content: str | None = None
    finish_reason: str | None = None
    error: Any = UNSET
    json: Any = UNSET
    data: str | None = None
    raw: bytes | None = None
    event: str | None = None

    def __post_init__(self) -> None:
        is_chunk = self.content is not None or self.finish_reason is not None
        given = [is_chunk, self.error is not UNSET, self.json is not UNSET]
        if sum([*given, self.data is not None, self.raw is not None]) != 1:
            raise ConfigError(
                "an event needs exactly one of content/finish_reason, error, json, data, raw"
            )

    def encode(self, identity: Mapping[str, Any]) -> bytes:
        """The event's bytes.

        Args:
            identity: ``id``, ``created`` and ``model`` of a chat chunk.
        """
        if self.raw is not None:
            return self.raw
        name = b"" if self.event is None else f"event: {self.event}\n".encode()
        text = self.data
        if self.content is not None or self.finish_reason is not None:
            text = compact(chat_chunk(identity, self.content, self.finish_reason))
        elif self.error is not UNSET:
            text = compact({"error": self.error})
        elif self.json is not UNSET:
            text = compact(self.json)
        lines = (text or "").split("\n")
        return name + "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


def compact(content: Any) -> str:
    """JSON without blanks; NaN and infinities are written as Python does, so that they can be sent."""
    return json_module.dumps(content, ensure_ascii=False, separators=(",", ":"))


def chat_chunk(
    identity: Mapping[str, Any], content: str | None, finish_reason: str | None
) -> dict[str, Any]:
    """A ``chat.completion.chunk`` in OpenAI's shape."""
    delta = {} if content is None else {"role": "assistant", "content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {**identity, "object": "chat.completion.chunk", "choices": [choice]}


def as_event(item: Any) -> Event:
    """An `Event` of what a caller may write for one; raises `ConfigError` for anything else."""
    match item:
        case Event():
            return item
        case str():
            return Event(data=item)
        case bytes():
            return Event(raw=item)
        case Mapping():
            return Event(json=item)
    raise ConfigError(f"an event must be an Event, str, bytes or mapping, not {item!r:.60}")
