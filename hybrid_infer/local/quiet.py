"""Loading without transformers' progress bars: whoever wants to see loads has `ModelLoaded` events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

_lock = Lock()
_num_quiet = 0
_was_enabled = False


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch transformers' progress bars off; the last of several loads puts them back."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    global _num_quiet, _was_enabled  # noqa: PLW0603 - transformers' switch is global too
    with _lock:
        if _num_quiet == 0:
            _was_enabled = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()
        _num_quiet += 1
    try:
        yield
    finally:
        with _lock:
            _num_quiet -= 1
            if _num_quiet == 0 and _was_enabled:
                logging.enable_progress_bar()
