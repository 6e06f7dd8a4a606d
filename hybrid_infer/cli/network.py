"""Whether remotes can be reached: one bounded connection each, nothing sent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Reach:
    """What a connection to one remote showed.

    Attributes:
        reachable: whether something accepted the connection.
        detail: how long it took, or why it did not work.
    """

    reachable: bool
    detail: str


def reach_all(urls: Sequence[str], seconds: float = PROBE_SECONDS) -> list[Reach]:
    """Connect to the host of each URL at the same time; none takes longer than `seconds`."""
    found: dict[int, Reach] = {}
    # A name look-up cannot be cut short, so the threads are daemons and may be left behind.
    probes = [
        threading.Thread(
            target=lambda i=i, url=url: found.__setitem__(i, _reach(url, seconds)), daemon=True
        )
        for i, url in enumerate(urls)
    ]
    ends = time.monotonic() + seconds
    for probe in probes:
        probe.start()
    for probe in probes:
        probe.join(max(0.0, ends - time.monotonic()))
    late = Reach(reachable=False, detail=f"no answer within {seconds:g} s")
    return [found.get(i, late) for i in range(len(urls))]


def _reach(url: str, seconds: float) -> Reach:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    started = time.monotonic()
    try:
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
    except TimeoutError:
        return Reach(reachable=False, detail=f"no answer within {seconds:g} s")
    except (OSError, UnicodeError) as error:  # an over-long host name fails in its encoding
        return Reach(reachable=False, detail=str(getattr(error, "strerror", None) or error))
    return Reach(
        reachable=True, detail=f"connected in {1000 * (time.monotonic() - started):.0f} ms"
    )
