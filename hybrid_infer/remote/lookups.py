"""Name look-ups that end in time: the system's resolver has no time limit of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from concurrent.futures import Future

MAX_ADDRESSES = 3

_pending: dict[tuple[str, int], Future[list[str]]] = {}
_lock = threading.Lock()


def _start_afresh() -> None:
    """A forked child has none of its parent's look-up threads."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _pending.clear()


os.register_at_fork(after_in_child=_start_afresh)


def look_up(host: str, port: int, timeout_seconds: float) -> list[str]:
    """Addresses of `host`, at most `MAX_ADDRESSES`, its families taking turns.

    Args:
        host: a name or a literal address.
        port: the port to be connected to.
        timeout_seconds: how long to wait; the resolver itself may go on in its thread.

    Raises:
        TimeoutError: no answer in time.
        OSError: the name is not known, or no resolver answers.
    """
    if _is_address(host):
        return [host]
    return _lookup(host, port).result(timeout_seconds)


async def look_up_async(host: str, port: int, timeout_seconds: float) -> list[str]:
    """`look_up`, awaited. The loop's executor is left alone: closing a loop waits for it."""
    if _is_address(host):
        return [host]
    async with asyncio.timeout(timeout_seconds):
        return await asyncio.wrap_future(_lookup(host, port))


def _lookup(host: str, port: int) -> Future[list[str]]:
    """The look-up of `host`: the one under way if there is one, so that threads do not pile up."""
    with _lock:
        pending = _pending.get((host, port))
        if pending is not None:
            return pending
        future: Future[list[str]] = Future()
        future.set_running_or_notify_cancel()
        _pending[host, port] = future
    thread = threading.Thread(
        target=_resolve, args=(host, port, future), name="hybrid-infer-lookup", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:  # the system gives no more threads
        _settle(host, port, future)
        future.set_exception(OSError(str(error)))
    return future


def _resolve(host: str, port: int, future: Future[list[str]]) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = interleaved([(family, str(where[0])) for family, *_, where in found])
    except (OSError, UnicodeError) as error:
        _settle(host, port, future)
        future.set_exception(error)
    else:
        _settle(host, port, future)
        future.set_result(addresses)


def _settle(host: str, port: int, future: Future[list[str]]) -> None:
    """The next call looks `host` up anew."""
    with _lock:
        if _pending.get((host, port)) is future:
            del _pending[host, port]


def interleaved(found: list[tuple[int, str]]) -> list[str]:
    """The first addresses of `found`, families in turn (RFC 8305, section 4), without doubles.

    One dead family must not use up the time in which the other would have answered.
    """
    by_family: dict[int, list[str]] = {}
    for family, address in found:
        addresses = by_family.setdefault(family, [])
        if address not in addresses:
            addresses.append(address)
    turns = itertools.zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None][:MAX_ADDRESSES]


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
