"""Calls that are due later, on a daemon thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget it."""
        ...


StartTimer = Callable[[float, Callable[[], None]], Timer]


def start_daemon_timer(seconds: float, call: Callable[[], None]) -> Timer:
    """Call a function after some seconds, unless the timer is cancelled before."""
    timer = threading.Timer(seconds, call)
    timer.daemon, timer.name = True, "hybrid-infer-idle"
    timer.start()
    return timer
