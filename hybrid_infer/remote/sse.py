"""Server-sent events, from bytes as they come to whole events. Pure: no I/O, no clock.

Source: WHATWG HTML Living Standard, section 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 8 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event.

    Attributes:
        data: the ``data`` lines, joined by newlines.
        event: the event's type.
        id: the last identifier that the stream named.
    """

    data: str
    event: str = "message"
    id: str = ""


class SseDecoder:
    """Splits a byte stream into events. A trailing event without its blank line is never given.

    Args:
        max_event_bytes: largest event, its field names included.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._is_at_start = True
        self._skips_newline = False
        self._event_bytes = 0
        self._data: list[str] = []
        self._event = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes.

        Raises:
            ValueError: an event, or a single line, is larger than allowed.
        """
        self._buffer += chunk
        if self._is_at_start and not self._skip_bom():
            return []
        events: list[ServerSentEvent] = []
        start = 0
        if self._skips_newline and self._buffer:
            start = 1 if self._buffer[0] == ord("\n") else 0
            self._skips_newline = False
        position = max(start, self._scanned)
        while (end := _LINE_END.search(self._buffer, position)) is not None:
            line = bytes(self._buffer[start : end.start()])
            start = position = end.end()
            self._skips_newline = end.group() == b"\r" and start == len(self._buffer)
            if event := self._take(line):
                events.append(event)
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        if self._event_bytes + len(self._buffer) > self._max_event_bytes:
            raise ValueError(f"an event is larger than {self._max_event_bytes} bytes")
        return events

    def _skip_bom(self) -> bool:
        """Drop a leading byte order mark; False while it cannot be told yet."""
        if len(self._buffer) < len(_BOM) and _BOM.startswith(bytes(self._buffer)):
            return False
        if self._buffer.startswith(_BOM):
            del self._buffer[: len(_BOM)]
        self._is_at_start = False
        return True

    def _take(self, line: bytes) -> ServerSentEvent | None:
        """Interpret one line; a blank one dispatches what was collected."""
        if not line:
            return self._dispatch()
        if line.startswith(b":"):
            return None
        self._event_bytes += len(line)
        if self._event_bytes > self._max_event_bytes:
            raise ValueError(f"an event is larger than {self._max_event_bytes} bytes")
        name, _, value = line.decode("utf-8", errors="replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._event_bytes = [], "", 0
        if not data:
            return None
        return ServerSentEvent("\n".join(data), event or "message", self._id)
