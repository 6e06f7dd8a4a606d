"""The client behind the interface, and the key that it is made with."""

from __future__ import annotations

from threading import Lock

from hybrid_infer.client.sync import HybridClient
from hybrid_infer.remote.keys import Secret


class Account:
    """A client, made for the first call and made anew when its key changes.

    Args:
        client: one that is there already and stays, with its own key; None: made here.
    """

    def __init__(self, client: HybridClient | None) -> None:
        self._given = client
        self._made: HybridClient | None = None
        self._key: Secret | None = None
        self._lock = Lock()

    @property
    def client(self) -> HybridClient:
        """The client that serves the calls."""
        if self._given is not None:
            return self._given
        with self._lock:
            if self._made is None:
                self._made = HybridClient(api_key=None if self._key is None else self._key.reveal())
            return self._made

    def use_key(self, key: Secret | None) -> None:
        """Make later calls with another key; None: the one that the environment has."""
        with self._lock:
            if key == self._key:
                return
            self._key, made, self._made = key, self._made, None
        if made is not None:
            made.close()

    def close(self) -> None:
        """Close the client that was made here; a later call makes another one."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()
