"""Many small requests that make one: a bounded number in flight, order kept, first failure ends all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Generic, TypeVar

from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.remote.exchange import Exchange

Result = TypeVar("Result")


def in_batches(request: EmbedRequest, batch_size: int) -> list[EmbedRequest]:
    """`request` cut into requests of at most `batch_size` texts, in order."""
    texts = request.texts
    if len(texts) <= batch_size:
        return [request]
    return [
        replace(request, texts=texts[start : start + batch_size])
        for start in range(0, len(texts), batch_size)
    ]


def halves(request: EmbedRequest) -> tuple[EmbedRequest, EmbedRequest]:
    """`request`, of two texts or more, cut in two."""
    middle = (len(request.texts) + 1) // 2
    first, second = request.texts[:middle], request.texts[middle:]
    return replace(request, texts=first), replace(request, texts=second)


class Crew(Generic[Result]):
    """Threads that work through a list of batches together with the calling thread.

    Threads are started only for more than one batch, live as long as the call, and are
    daemons: after a failure nobody waits for one that is still connecting.

    Args:
        work: one batch, and the exchange to send it on, to its result.
        new_exchange: makes an exchange, which may be aborted while it is in use.
        batches: what to do.
    """

    def __init__(
        self,
        work: Callable[[EmbedRequest, Exchange], Result],
        new_exchange: Callable[[], Exchange],
        batches: list[EmbedRequest],
    ) -> None:
        self._work = work
        self._new_exchange = new_exchange
        self._todo: Iterator[tuple[int, EmbedRequest]] = iter(enumerate(batches))
        self._results: dict[int, Result] = {}
        self._num_batches = len(batches)
        self._in_flight: set[Exchange] = set()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def run(self, max_in_flight: int) -> list[Result]:
        """The results, in the order of the batches.

        Raises:
            HybridInferError: the first failure; what was in flight is aborted.
        """
        try:
            self._start_members(min(max_in_flight, self._num_batches) - 1)
            self._run_member()
            with self._changed:
                self._changed.wait_for(self._is_over)
        except BaseException as error:  # an interrupt of this thread ends the others too
            self._end_all(error)
            raise
        if self._failure is not None:
            raise self._failure
        return [self._results[number] for number in range(self._num_batches)]

    def _start_members(self, count: int) -> None:
        with contextlib.suppress(RuntimeError):  # the system gives no more threads: do with fewer
            for number in range(count):
                threading.Thread(
                    target=self._run_member, name=f"hybrid-infer-batch-{number}", daemon=True
                ).start()

    def _is_over(self) -> bool:
        return self._failure is not None or len(self._results) == self._num_batches

    def _run_member(self) -> None:
        while True:
            exchange = self._new_exchange()
            with self._changed:
                number, batch = next(self._todo, (None, None))
                if number is None or batch is None or self._failure is not None:
                    return
                self._in_flight.add(exchange)
            try:
                result = self._work(batch, exchange)
            except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                self._end_all(error)
                return
            with self._changed:
                self._in_flight.discard(exchange)
                self._results[number] = result
                self._changed.notify_all()

    def _end_all(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            exchanges = list(self._in_flight)
            self._in_flight.clear()
            self._changed.notify_all()
        for exchange in exchanges:
            exchange.abort()


async def gathered(
    work: Callable[[EmbedRequest], Awaitable[Result]],
    batches: list[EmbedRequest],
    max_in_flight: int,
) -> list[Result]:
    """`Crew.run`, awaited: the first failure cancels the rest, and is raised once they are gone."""
    todo = iter(enumerate(batches))
    results: dict[int, Result] = {}

    async def run_member() -> None:
        for number, batch in todo:
            results[number] = await work(batch)

    members = [asyncio.ensure_future(run_member()) for _ in range(min(max_in_flight, len(batches)))]
    try:
        await asyncio.gather(*members)
    except BaseException:
        for member in members:
            member.cancel()
        await asyncio.gather(*members, return_exceptions=True)
        raise
    return [results[number] for number in range(len(batches))]
