"""One request's way over a connection: the time it has, and what was seen of its answer.

An HTTP client's timeouts bound single reads, so a slow drip outlives them. Here every
"timeout" handed to httpcore2 is an `Allowance`: a float that also knows its `Exchange`, so that
our own network streams ask for the time that is left at each read, write and connect. It rides
on the request, not on the connection, which is what keeps it right when connections are reused.
"""

from __future__ import annotations

from typing import Protocol, Self

from hybrid_infer.datatypes.deadline import Deadline

MAX_SECONDS = 86_400.0  # what select and poll take everywhere


class Interruptible(Protocol):
    """A connection whose blocked reader another thread can wake."""

    def interrupt_for(self, exchange: Exchange) -> None:
        """End what is going on, unless that is another exchange by now."""
        ...


class Exchange:
    """One request and its answer.

    Args:
        deadline: when it must be over; may be replaced while it runs.
        connect_seconds: time for each step of connecting.

    Attributes:
        is_reused: whether the connection had carried an answer before this request.
        is_answered: whether any byte of this answer has arrived.
    """

    __slots__ = (
        "__weakref__",
        "_connect_seconds",
        "_connection",
        "_is_aborted",
        "deadline",
        "is_answered",
        "is_reused",
    )

    def __init__(self, deadline: Deadline, connect_seconds: float) -> None:
        self.deadline = deadline
        self.is_reused = False
        self.is_answered = False
        self._connect_seconds = connect_seconds
        self._connection: Interruptible | None = None
        self._is_aborted = False

    def left(self) -> float:
        """Seconds left; 0 once aborted."""
        return 0.0 if self._is_aborted else self.deadline.left()

    def timeouts(self) -> dict[str, float]:
        """httpcore2's ``timeout`` extension for this exchange."""
        patient = Allowance(self)
        return {
            "connect": Allowance(self, self._connect_seconds),
            "read": patient,
            "write": patient,
            "pool": patient,
        }

    def travels_on(self, connection: Interruptible, *, has_answered: bool) -> None:
        """Report that `connection` now carries the request."""
        self._connection = connection
        self.is_reused, self.is_answered = has_answered, False
        if self._is_aborted:
            connection.interrupt_for(self)

    def may_be_repeated(self) -> bool:
        """Whether a failure means no more than a keep-alive connection that was already closed."""
        return self.is_reused and not self.is_answered and self.left() > 0.0

    def abort(self) -> None:
        """End the exchange now; from any thread. Its connection may carry another one by now."""
        self._is_aborted = True
        if self._connection is not None:
            self._connection.interrupt_for(self)


class Allowance(float):
    """A timeout in seconds that is asked again at each use.

    Args:
        exchange: whose time it is.
        most_seconds: never more than this at once.
    """

    __slots__ = ("exchange", "most_seconds")
    exchange: Exchange
    most_seconds: float

    def __new__(cls, exchange: Exchange, most_seconds: float = MAX_SECONDS) -> Self:
        """The float is the time left at the start, for whoever reads it as one."""
        allowance = super().__new__(cls, min(exchange.left(), most_seconds))
        allowance.exchange = exchange
        allowance.most_seconds = most_seconds
        return allowance

    def left(self) -> float:
        """Seconds left now."""
        return min(self.exchange.left(), self.most_seconds)
