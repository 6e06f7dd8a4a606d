"""What a fake remote receives: headers, requests, and what each asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_infer.datatypes.models import Task

_SECRETS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"})
_MODEL_IN_PATH = re.compile(r"/models/(?P<model>.+?)(?:/v1/|/pipeline/|$)")
_CHAT_END = "/chat/completions"
_EMBEDDING_ENDS = ("/embeddings", "/embed", "/pipeline/feature-extraction")


class Headers(Mapping[str, str]):
    """Headers by name, in any case; its repr masks those that hold a key.

    Args:
        pairs: names and values; the values of a name that comes twice are joined by a comma.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = {k: "***" if k in _SECRETS else v for k, v in self._values.items()}
        return f"Headers({shown})"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request, and what became of it.

    The ledger replaces the entry when its answer ends, so read it again rather than keeping it
    if `answered` or `bytes_sent` matter.

    Attributes:
        method: ``GET``, ``POST`` …
        path: decoded, without the query.
        query: what follows the ``?``, as it was sent; empty if there is none.
        headers: by name, in any case.
        body: as it was sent, chunks joined.
        received_at: monotonic seconds at which its last byte had arrived.
        connection_id: counts the connections; the same number means the same connection.
        answered: the status that was sent; None until then, and if there never was one.
        bytes_sent: of the answer, head included.
        finished: whether nothing more will be sent.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes = field(repr=False)
    received_at: float
    connection_id: int
    answered: int | None = None
    bytes_sent: int = 0
    finished: bool = False

    @property
    def body_json(self) -> Any:
        """The body, parsed; None if there is none or it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def task(self) -> Task | None:
        """What the path is for; None for the Hub's own and for paths that there are not."""
        path = self.path.rstrip("/")
        if path.endswith(_CHAT_END):
            return "chat"
        return "embeddings" if path.endswith(_EMBEDDING_ENDS) else None

    @property
    def model(self) -> str | None:
        """The model that the path names, else the body; None if neither does."""
        in_path = _MODEL_IN_PATH.search(self.path)
        if in_path:
            return in_path["model"]
        body = self.body_json
        named = body.get("model") if isinstance(body, dict) else None
        return named if isinstance(named, str) else None

    @property
    def stream(self) -> bool:
        """Whether the body asks for a stream."""
        body = self.body_json
        return isinstance(body, dict) and body.get("stream") is True
