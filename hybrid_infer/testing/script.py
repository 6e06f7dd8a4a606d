"""Which reply a request gets: the steps that are left, then the caller's own function."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from hybrid_infer.errors import ConfigError
from hybrid_infer.testing.messages import ReceivedRequest
from hybrid_infer.testing.scenario import Reply, Scenario, Step

Responder: TypeAlias = Callable[[ReceivedRequest], Reply | None]


class Script:
    """Steps and a responder, changed and consulted from any thread."""

    def __init__(self, scenario: Scenario | None = None) -> None:
        self._lock = threading.Lock()
        self._left: list[tuple[Step, int | None]] = []
        self._responder: Responder | None = None
        for step in scenario.steps if scenario else ():
            self.append(step)

    def append(self, step: Step) -> None:
        """Put a step behind those that are there."""
        with self._lock:
            self._left.append((step, step.times))

    def respond_with(self, responder: Responder | None) -> None:
        """Ask `responder` about each request that no step admits."""
        with self._lock:
            self._responder = responder

    def clear(self) -> None:
        """Forget every step and the responder."""
        with self._lock:
            self._left.clear()
            self._responder = None

    def take(self, request: ReceivedRequest) -> Reply | Responder | None:
        """The reply of the first step that admits `request`, used once more; else the responder."""
        with self._lock:
            for index, (step, times) in enumerate(self._left):
                if not step.match.admits(request):
                    continue
                if times == 1:
                    del self._left[index]
                elif times is not None:
                    self._left[index] = (step, times - 1)
                return step.reply
            return self._responder


def asked(responder: Responder, request: ReceivedRequest) -> Reply:
    """What `responder` says to `request`; None from it means the healthy answer.

    Raises:
        ConfigError: it returned something else than a `Reply` or None.
    """
    reply = responder(request)
    if reply is not None and not isinstance(reply, Reply):
        raise ConfigError(f"respond_with's function returned {type(reply).__name__}, not a Reply")
    return Reply() if reply is None else reply
