"""Work on behalf of a client that may leave at any moment: it then stops."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from starlette.types import Scope

from hybrid_infer.server.errors import ErrorAnswer

CONNECTION = "hybrid_infer.connection"  # the key of a request's scope


class GoneError(Exception):
    """The client has left; nobody reads an answer."""


class Connection(Protocol):
    """Where a request has come from."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""

    @property
    def is_whole(self) -> bool:
        """Whether the request that is being answered is all here."""

    @property
    def has_begun(self) -> bool:
        """Whether the answer to that request has begun."""

    def whole_body(self) -> bytes:
        """The body of a request that is all here; once."""

    def answer(self, status: int, head: bytes, body: bytes) -> bool:
        """Write a whole answer at once; False if that cannot be, and nothing is written.

        Args:
            status: its code.
            head: header lines, each with its line end, but for the length.
            body: what follows them.
        """

    def name_answer(self, name: bytes, value: bytes) -> None:
        """Add a header to the answer, whoever gives it."""

    @property
    def refusal(self) -> ErrorAnswer | None:
        """What is wrong with the rest of the last request that has begun."""

    def watch(self, work: UntilGone) -> None:
        """Tell `work` when the client leaves."""

    def unwatch(self, work: UntilGone) -> None:
        """Tell it no longer."""


class UntilGone:
    """Cancels what is inside as soon as the client has left.

    The connection itself tells of that: a task that waits for it, as ASGI would have it, costs each
    request another two turns of the event loop.

    Args:
        scope: of the request.

    Raises:
        GoneError: the client has left.
    """

    __slots__ = ("_connection", "_has_left", "_worker")

    def __init__(self, scope: Scope) -> None:
        self._connection: Connection = scope[CONNECTION]
        self._worker = asyncio.current_task()
        self._has_left = False

    def client_left(self) -> None:
        """The connection is lost."""
        self._has_left = True
        if self._worker is not None:
            self._worker.cancel()

    def __enter__(self) -> Self:
        """Begin to watch."""
        if self._connection.is_gone:
            raise GoneError
        self._connection.watch(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Watch no longer; a cancellation that was ours is the client's leaving."""
        self._connection.unwatch(self)
        if not self._has_left or not isinstance(error, asyncio.CancelledError):
            return
        if self._worker is not None and not self._worker.uncancel():
            raise GoneError from None  # nobody else wants the work to end
