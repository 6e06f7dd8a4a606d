"""Loading without transformers' progress bars: whoever wants to see loads has `ModelLoaded` events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch transformers' progress bars off, and back to what they were."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
