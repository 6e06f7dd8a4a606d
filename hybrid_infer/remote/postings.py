"""One POST as a dialect words it: the path, and a document as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_infer.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Posting:
    """One POST: where to, under the remote's base URL, and what.

    Attributes:
        path: percent-encoded, with a leading slash.
        body: JSON in UTF-8.
        streams: whether the answer is wanted as server-sent events.
    """

    path: str
    body: bytes = field(repr=False)
    streams: bool = False


def posting(path: str, document: Mapping[str, Any], *, streams: bool = False) -> Posting:
    """`document` on its way to `path`, as compact JSON in UTF-8.

    Raises:
        InvalidRequestError: an option holds something that JSON cannot.
    """
    body: bytes | None
    try:
        text = json.dumps(
            document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
        body = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        body = None
    if body is None:
        raise InvalidRequestError("an option holds a value that cannot be sent as JSON")
    return Posting(path, body, streams)


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError
