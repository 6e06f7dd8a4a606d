"""A clock that stands still between a call's sleeps, or runs on beside the real one."""

from __future__ import annotations

import time

START = 1_000.0


class Clock:
    """A monotonic clock whose sleeps take no time.

    Attributes:
        is_running: whether it also moves with the real time.
        slept: seconds slept since `restart`.
    """

    def __init__(self) -> None:
        self.is_running = False
        self.slept = 0.0
        self._skipped = START
        self._real_start = time.monotonic()

    def restart(self) -> None:
        """Begin anew, standing still."""
        self.is_running, self.slept, self._skipped = False, 0.0, START

    def run(self) -> None:
        """Move with the real time from now on."""
        self.is_running, self._real_start = True, time.monotonic()

    def stop(self) -> None:
        """Stand still where it is."""
        self._skipped, self.is_running = self(), False

    def __call__(self) -> float:
        real = time.monotonic() - self._real_start if self.is_running else 0.0
        return self._skipped + real

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._skipped += seconds

    def sleep(self, seconds: float) -> None:
        """What a driver does instead of sleeping."""
        self.slept += seconds
        self.advance(seconds)

    async def asleep(self, seconds: float) -> None:
        """`sleep`, awaited."""
        self.sleep(seconds)
