"""The response cache: vectors by text and space, chat answers by every option, the latest kept.

Nothing here knows a client. Keys are hashes: no text and no prompt is kept. What is kept belongs to
the cache alone: vectors and answers are copied on their way in and out.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.chat import ChatCompletion
from hybrid_infer.datatypes.embeddings import EmbeddingSpace
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.datatypes.route import Route

KEY_BYTES = 32

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who computed something: what one call returns comes from one origin.

    Attributes:
        provider: the remote's name; None: computed here.
        model: the repository id that served.
        revision: the revision observed; None if the remote did not say.
        dtype: the local computation's dtype; None when remote.
    """

    provider: str | None
    model: str
    revision: str | None
    dtype: str | None

    @classmethod
    def of(cls, route: Route) -> Origin:
        """The origin of what `route` led to."""
        return cls(route.provider, route.model, route.revision, route.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class CachedVector:
    """One text's vector, read-only, and the route of the call that computed it."""

    vector: NDArray[np.float32]
    route: Route


class LatestEntries(Generic[ValueT]):
    """A bounded mapping that forgets what was used least recently. Safe to share between threads.

    Args:
        max_entries: how many it holds.

    Attributes:
        epoch: how often something was dropped on purpose.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self.epoch = 0
        self._entries: OrderedDict[Hashable, ValueT] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, keys: Sequence[Hashable]) -> list[ValueT | None]:
        """What each of `keys` holds, in their order; None for nothing."""
        with self._lock:
            found = [self._entries.get(key) for key in keys]
            for key, value in zip(keys, found, strict=True):
                if value is not None:
                    self._entries.move_to_end(key)
        return found

    def put(self, entries: Iterable[tuple[Hashable, ValueT]], epoch: int) -> None:
        """Keep entries, and forget the oldest ones beyond the bound.

        Args:
            entries: keys and values.
            epoch: when they were asked for; nothing is kept if something was dropped since.
        """
        with self._lock:
            if epoch != self.epoch:
                return
            for key, value in entries:
                self._entries[key] = value
                self._entries.move_to_end(key)
                if len(self._entries) > self._max_entries:
                    self._entries.popitem(last=False)

    def drop(self, is_unwanted: Callable[[ValueT], bool]) -> None:
        """Forget every entry of which `is_unwanted` is true."""
        with self._lock:
            self.epoch += 1
            for key in [key for key, value in self._entries.items() if is_unwanted(value)]:
                del self._entries[key]


class ResponseCache:
    """What one client remembers: a text's vector is one entry, a chat answer is one.

    Args:
        max_entries: how many entries it holds.
    """

    def __init__(self, max_entries: int) -> None:
        self._entries: LatestEntries[CachedVector | ChatCompletion] = LatestEntries(max_entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def epoch(self) -> int:
        """Goes into ``put_vectors`` and ``put_answer``: when what they keep was asked for."""
        return self._entries.epoch

    def vectors(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """The vector behind each of `keys`, in their order."""
        found = self._entries.find(keys)
        return [entry if isinstance(entry, CachedVector) else None for entry in found]

    def put_vectors(
        self, keys: Sequence[bytes], vectors: NDArray[np.float32], route: Route, epoch: int
    ) -> None:
        """Keep copies of the rows of `vectors`, float32 ``(n, dim)``, one a key."""
        entries = [
            (key, CachedVector(_frozen_copy(row), route))
            for key, row in zip(keys, vectors, strict=True)
        ]
        self._entries.put(entries, epoch)

    def answer(self, key: bytes) -> ChatCompletion | None:
        """A copy of the answer behind `key`."""
        (entry,) = self._entries.find([key])
        return _own_copy(entry) if isinstance(entry, ChatCompletion) else None

    def put_answer(self, key: bytes, answer: ChatCompletion, epoch: int) -> None:
        """Keep a copy of an answer."""
        self._entries.put([(key, _own_copy(answer))], epoch)

    def forget(self, provider: str) -> None:
        """Drop what a remote has answered, and what it is answering now: it is not trusted."""
        self._entries.drop(lambda entry: entry.route.provider == provider)


def _frozen_copy(row: NDArray[np.float32]) -> NDArray[np.float32]:
    # A row of its own: a view would keep the whole call's array alive.
    kept = row.copy()
    kept.flags.writeable = False
    return kept


def _own_copy(answer: ChatCompletion) -> ChatCompletion:
    # Only what a remote sent as JSON (logprobs) could be changed by whoever holds it.
    return replace(answer, choices=copy.deepcopy(answer.choices))


def is_cacheable(request: Request) -> bool:
    """Whether the same request has the same answer again.

    Embeddings have; chat answers have under greedy decoding or a seed. Only pinned models: what is
    not pinned may rightly change. Streams are not kept.
    """
    if request.spec.revision is None:
        return False
    if isinstance(request, EmbedRequest):
        return True
    return not request.stream and (request.temperature == 0 or request.seed is not None)


def vector_keys(request: EmbedRequest, space: EmbeddingSpace) -> list[bytes]:
    """One key a text: the text, its space, and whether it may be cut."""
    # The length of a vector may be unknown before the first one, and follows from the rest.
    head = _digest(["embeddings", repr(replace(space, dim=0)), request.truncate])
    return [
        hashlib.blake2b(text.encode(), key=head, digest_size=KEY_BYTES).digest()
        for text in request.texts
    ]


def chat_key(request: ChatRequest) -> bytes:
    """The key of a chat request: repository, revision, the local copy's file, messages, every option."""
    spec = request.spec
    return _digest([
        "chat", spec.repo, spec.revision, spec.provider, spec.allow_quantized, repr(spec.gguf),
        request.messages, request.max_tokens, request.max_tokens_is_default, request.temperature,
        request.top_p, request.top_k, request.stop, request.seed, request.passthrough,
    ])  # fmt: skip


def _digest(parts: Sequence[object]) -> bytes:
    # Read back first: what JSON makes text of, such as a key that is a number, sorts as text.
    plain = json.loads(json.dumps(parts))
    return hashlib.blake2b(
        json.dumps(plain, sort_keys=True).encode(), digest_size=KEY_BYTES
    ).digest()
