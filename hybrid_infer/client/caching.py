"""What the cache answers of a call, and what is left of it for a target to answer.

A call that is wrong, or fails, raises from `complete`, and nothing is kept of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.cache import (
    CachedVector,
    Origin,
    ResponseCache,
    chat_key,
    is_cacheable,
    vector_keys,
)
from hybrid_infer.client.reporting import report_cache_hit, report_lookup
from hybrid_infer.client.results import space_of
from hybrid_infer.datatypes.chat import ChatCompletion
from hybrid_infer.datatypes.embeddings import Embeddings, EmbeddingUsage
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.datatypes.route import Reason, Route
from hybrid_infer.events import Answered
from hybrid_infer.routing.policy import LOCAL, check_route

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

RequestT = TypeVar("RequestT", EmbedRequest, ChatRequest)
ResultT = TypeVar("ResultT", Embeddings, ChatCompletion)


class Lookup(Generic[RequestT, ResultT]):
    """A call of which the cache knows nothing: all of it remains.

    Attributes:
        remaining: the request that a target has still to answer, unless there is a result.
    """

    def __init__(self, request: RequestT) -> None:
        self.remaining: RequestT = request
        self._result: ResultT | None = None

    def learn(self, result: ResultT) -> None:
        """Take the answer of what remained."""
        self._result = result

    def complete(self, answer: Callable[[RequestT], ResultT]) -> ResultT:
        """The call's result; `answer` is asked for what remains."""
        while self._result is None:
            self.learn(answer(self.remaining))
        return self._result

    async def complete_async(self, answer: Callable[[RequestT], Awaitable[ResultT]]) -> ResultT:
        """`complete`, awaited."""
        while self._result is None:
            self.learn(await answer(self.remaining))
        return self._result


class EmbeddingLookup(Lookup[EmbedRequest, Embeddings]):
    """An ``embed`` call: the texts that are known, and those that remain.

    One call returns vectors of one origin. Where known texts have several, those of the most
    frequent one count. Where the rest turns out to be served by another, because a remote has gone
    or come back, the whole call is asked again: at most once, and only then.
    """

    def __init__(
        self, session: Session, cache: ResponseCache, request: EmbedRequest, route: str | None
    ) -> None:
        super().__init__(request)
        self._session, self._cache, self._request = session, cache, request
        self._started_at, self._epoch = session.clock(), cache.epoch
        self._keys = vector_keys(request, space_of(session, request, request.spec.dim or 0))
        self._known = _of_one_origin(cache.vectors(self._keys), route)
        self._missing = [i for i in range(len(request.texts)) if i not in self._known]
        report_lookup(session, request, len(self._known), len(self._missing))
        if not self._missing:
            self._answer_from_cache()
        elif self._known:
            self.remaining = _part(request, self._missing)

    def learn(self, result: Embeddings) -> None:
        """Keep new vectors; end the call, or ask for all of it if it would mix two origins."""
        # A copy that came after the call was made has a prompt which these keys do not say.
        if result.space.prompt == self._request.prompt:
            keys = [self._keys[index] for index in self._missing]
            self._cache.put_vectors(keys, result.vectors, result.route, self._epoch)
        if not self._known:
            self._result = result
        elif self._fits(result):
            self._result = self._merged(result)
        else:
            self._known, self._missing = {}, list(range(len(self._request.texts)))
            self.remaining = self._request

    @property
    def _route(self) -> Route:
        return next(iter(self._known.values())).route

    def _fits(self, computed: Embeddings) -> bool:
        known = next(iter(self._known.values()))
        same_length = len(known.vector) == computed.vectors.shape[1]
        return same_length and Origin.of(computed.route) == Origin.of(known.route)

    def _merged(self, computed: Embeddings) -> Embeddings:
        vectors = np.empty((len(self._request.texts), computed.vectors.shape[1]), np.float32)
        vectors[self._missing] = computed.vectors
        self._fill(vectors)
        detail = f"{len(self._known)} of {len(vectors)} texts from the cache"
        if computed.route.detail:
            detail = f"{computed.route.detail}; {detail}"
        return replace(
            computed,
            vectors=vectors,
            route=replace(computed.route, detail=detail),
            usage=replace(computed.usage, truncations=self._truncations()),
        )

    def _answer_from_cache(self) -> None:
        dim = len(next(iter(self._known.values())).vector)
        vectors = np.empty((len(self._request.texts), dim), np.float32)
        self._fill(vectors)
        route = _hit(self._session, self._request, self._route, self._started_at)
        self._result = Embeddings(
            vectors=vectors,
            route=route,
            usage=EmbeddingUsage(0, self._truncations()),
            space=space_of(self._session, self._request, dim),
        )
        report_cache_hit(self._session, self._request, route, Answered(dim=dim))

    def _fill(self, vectors: NDArray[np.float32]) -> None:
        for index, entry in self._known.items():
            vectors[index] = entry.vector

    def _truncations(self) -> int | None:
        # How many of the known texts a tokenizer had cut, nobody has counted one by one.
        return len(self._request.cut_texts) or None


class ChatLookup(Lookup[ChatRequest, ChatCompletion]):
    """A ``chat_completion`` call: known as a whole, or not at all."""

    def __init__(
        self, session: Session, cache: ResponseCache, request: ChatRequest, route: str | None
    ) -> None:
        super().__init__(request)
        self._cache, self._key, self._epoch = cache, chat_key(request), cache.epoch
        started_at = session.clock()
        known = cache.answer(self._key)
        if known is not None and not _may_serve(known.route, route):
            known = None
        report_lookup(session, request, int(known is not None), int(known is None))
        if known is not None:
            hit = _hit(session, request, known.route, started_at)
            self._result = replace(known, route=hit)
            reasons = tuple(choice.finish_reason for choice in known.choices)
            report_cache_hit(session, request, hit, Answered(finish_reasons=reasons))

    def learn(self, result: ChatCompletion) -> None:
        """Keep the answer and end the call."""
        self._cache.put_answer(self._key, result, self._epoch)
        self._result = result


def embedding_lookup(
    session: Session, request: EmbedRequest, route: str | None
) -> Lookup[EmbedRequest, Embeddings]:
    """Look an ``embed`` call up.

    Raises:
        EngineClosedError: the client is closed.
        InvalidRequestError: `route` is wrong.
    """
    if session.cache is None or not is_cacheable(request):
        return Lookup(request)
    _check(session, route)
    return EmbeddingLookup(session, session.cache, request, route)


def chat_lookup(
    session: Session, request: ChatRequest, route: str | None
) -> Lookup[ChatRequest, ChatCompletion]:
    """Look a ``chat_completion`` call up.

    Raises:
        EngineClosedError: the client is closed.
        InvalidRequestError: `route` is wrong.
    """
    if session.cache is None or not is_cacheable(request):
        return Lookup(request)
    _check(session, route)
    return ChatLookup(session, session.cache, request, route)


def _check(session: Session, route: str | None) -> None:
    """What a call that reaches a target is checked for when it is planned."""
    session.check_open()
    check_route(route, session.policy, [remote.name for remote in session.remotes])


def _may_serve(known: Route, route: str | None) -> bool:
    """Whether a call that names its target would have been served by the same one."""
    if route is None:
        return True
    if route == LOCAL.name:
        return known.provider is None
    return known.provider is not None and route in ("remote", known.provider)


def _of_one_origin(found: list[CachedVector | None], route: str | None) -> dict[int, CachedVector]:
    usable = {
        index: entry
        for index, entry in enumerate(found)
        if entry is not None and _may_serve(entry.route, route)
    }
    origins = Counter(Origin.of(entry.route) for entry in usable.values())
    if len(origins) <= 1:
        return usable
    ((chosen, _),) = origins.most_common(1)
    return {i: entry for i, entry in usable.items() if Origin.of(entry.route) == chosen}


def _part(request: EmbedRequest, indices: list[int]) -> EmbedRequest:
    cut = frozenset(n for n, index in enumerate(indices) if index in request.cut_texts)
    return replace(request, texts=tuple(request.texts[i] for i in indices), cut_texts=cut)


def _hit(
    session: Session, request: EmbedRequest | ChatRequest, known: Route, started_at: float
) -> Route:
    """The route of a call that the cache has answered."""
    server = known.provider or LOCAL.name
    return replace(
        known,
        backend="cache",
        verified=known.verified or session.canary.trusts(server, request.spec),
        reason=Reason.CACHE_HIT,
        detail=f"first served by {server}",
        attempts=(),
        latency_seconds=session.clock() - started_at,
    )
