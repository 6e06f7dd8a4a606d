"""What the HTTP transport logs at DEBUG: headers as they arrived, and a remote may repeat a key in one."""

from __future__ import annotations

import functools
import logging

from hybrid_infer.remote.keys import redact_known

# httpcore2's loggers: a filter does not see what a logger below its own logs.
_LOGGERS = tuple(
    f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")
)


class KeyFilter(logging.Filter):
    """Replaces every key in a record's text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let `record` pass, without keys."""
        text = record.getMessage()
        clean = redact_known(text)
        if clean != text:
            record.msg, record.args = clean, None
        return True


@functools.cache
def keep_keys_out_of_logs() -> None:
    """Filter the transport's loggers, once a process."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(KeyFilter())
