"""Loading without transformers' progress bars and torchao's complaints: loads have events instead."""

from __future__ import annotations

import logging as standard_logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any

_lock = Lock()
_num_quiet = 0
_was_enabled = False


@cache
def import_torchao() -> None:
    """Import torchao, if it is here, without what its import logs: kernels for GPUs that are not.

    Transformers imports it with the first model, whether it is wanted or not.
    """
    if find_spec("torchao") is None:
        return
    loggers = [standard_logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(standard_logging.CRITICAL)
    try:
        import_module("torchao")
        import_module("torchao.quantization")
        with suppress(ImportError):  # a prototype; transformers imports it where it is
            import_module("torchao.prototype.mx_formats.config")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch transformers' progress bars off; the last of several loads puts them back."""
    import_torchao()
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
