"""Events as lines of Python's own logging."""

from __future__ import annotations

import logging

from hybrid_infer.events import (
    CallFailed,
    CallFinished,
    Event,
    FellBack,
    ModelLoaded,
    Retried,
    StreamEnded,
    TargetClosed,
    TargetReopened,
)

LOGGER_NAME = "hybrid_infer.calls"

Line = tuple[int, str, tuple[object, ...]]


class LogObserver:
    """One line a fact: names, numbers and reasons, never a prompt, an answer, a message or a key.

    A fallback is one line at INFO. Failed calls, broken streams and remotes that are left alone are
    warnings, loads and retries INFO, ordinary calls DEBUG.

    Args:
        logger: where to; None: ``hybrid_infer.calls``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logging.getLogger(LOGGER_NAME) if logger is None else logger

    def __call__(self, event: Event) -> None:
        """Log `event`, if it is worth a line."""
        line = line_of(event)
        if line is not None:
            level, text, values = line
            self._logger.log(level, text, *values)


def line_of(event: Event) -> Line | None:
    """The level, the format and the values of an event's line; None for one that has none."""
    # None for what others count (tries, cache look-ups, batches), and for a quarantine, of which
    # there is a warning in any case.
    line: Line | None = None
    values: tuple[object, ...]
    match event:
        case CallFinished() | CallFailed() | StreamEnded():
            line = _end_of_call(event)
        case FellBack(model, from_target, to_target, reason):
            values = (model, to_target, from_target, reason)
            line = logging.INFO, "%s served by %s instead of %s: %s", values
        case Retried(model, target, reason):
            line = logging.INFO, "%s asked of %s again after %s", (model, target, reason)
        case TargetClosed(model, target, reason, seconds):
            values = (target, model, seconds, reason)
            line = logging.WARNING, "%s is not asked for %s for %.1f s: %s", values
        case TargetReopened(model, target):
            line = logging.INFO, "%s serves %s again", (target, model)
        case ModelLoaded(model, _, dtype, seconds):
            line = logging.INFO, "%s loaded as %s in %.1f s", (model, dtype, seconds)
    return line


def _end_of_call(event: CallFinished | CallFailed | StreamEnded) -> Line:
    values: tuple[object, ...]
    match event:
        case CallFinished(model, route):
            values = (model, route.backend, route.reason, 1000 * route.latency_seconds)
            return logging.DEBUG, "%s served from %s (%s) in %.1f ms", values
        case CallFailed(model, error, attempts, _, seconds):
            values = (model, error, len(attempts), seconds)
            return logging.WARNING, "%s failed: %s after %d tries in %.2f s", values
        case StreamEnded(model, route, _, _, error, is_whole, seconds):
            if error is not None:
                return logging.WARNING, "a stream of %s broke: %s", (model, error)
            end = "ended" if is_whole else "was left by its reader"
            text = "a stream of %s from %s %s after %.2f s"
            return logging.DEBUG, text, (model, route.backend, end, seconds)
