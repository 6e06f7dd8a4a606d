"""The standard streams, made fit for use: none is missing, and no character breaks one."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import IO, TextIO

_WORDS = {"✓": "ok", "✗": "bad", "·": "-", "→": "->", "≥": ">="}


class _ClosedFile(io.FileIO):
    """Where a closed stdout was: what is written there is lost, and so it is an error."""

    def write(self, _data: object, /) -> int:
        raise OSError(errno.EBADF, "stdout is closed")


def mend() -> None:
    """Put a stream where the caller closed one, and let stdout escape what it cannot encode.

    Python leaves None for a closed stream, and the next file that is opened would get its number,
    and with it whatever a library prints. A closed stdin is an empty one; what is said on a closed
    stderr is lost; only what goes to a closed stdout is missed, as on a full disk.
    """
    # In this order each gets its own number back.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - until the end
    if sys.stdout is None:
        file = _ClosedFile(os.open(os.devnull, os.O_WRONLY), "w")
        sys.stdout = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _whole(sys.stdout)
    if isinstance(sys.stdout, io.TextIOWrapper) and _breaks(sys.stdout):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python has it on stderr


def _whole(stdout: io.TextIOWrapper) -> io.TextIOWrapper:
    """Stdout, with nothing lost of what a full disk takes in part.

    With PYTHONUNBUFFERED its texts go to the file at once, which says how much it has taken, and the
    text layer does not listen.
    """
    if not isinstance(stdout.buffer, io.FileIO) or isinstance(stdout.buffer, _ClosedFile):
        return stdout
    buffer = io.BufferedWriter(io.FileIO(stdout.fileno(), "w", closefd=False))
    return io.TextIOWrapper(buffer, stdout.encoding, stdout.errors, line_buffering=True)


def _breaks(stream: TextIO) -> bool:
    """Whether a character can be an error; the handler of POSIX's C locale takes only some."""
    is_unicode = codecs.lookup(stream.encoding).name == "utf-8"
    return stream.errors == "strict" or (stream.errors == "surrogateescape" and not is_unicode)


def input_bytes() -> IO[bytes]:
    """What comes from stdin, through a buffer of its own.

    A thread may still wait for more when the program ends, and the interpreter does not survive that
    in its own.
    """
    try:
        number = sys.stdin.fileno()
    except OSError:  # it is none of the system's files, as in a test
        return sys.stdin.buffer
    return open(number, "rb", closefd=False)


def is_closed() -> bool:
    """Whether stdout was closed when the program started."""
    return isinstance(getattr(sys.stdout, "buffer", None), _ClosedFile)


def carries(text: str) -> bool:
    """Whether stdout's encoding has every character of `text`."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def mark(sign: str) -> str:
    """A sign of our tables; where stdout's encoding lacks it, what stands for it in ASCII."""
    return sign if carries(sign) else _WORDS[sign]
