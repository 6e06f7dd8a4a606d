"""A client's backends and keys: made on first use, closed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from hybrid_infer.client.pauses import Pauses
from hybrid_infer.datatypes.limits import RateLimitState
from hybrid_infer.datatypes.models import RemoteSpec
from hybrid_infer.errors import EngineClosedError
from hybrid_infer.events import Observer
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.targets import Backend
from hybrid_infer.settings import Settings

if TYPE_CHECKING:
    from hybrid_infer.local.backend import LocalBackend
    from hybrid_infer.remote.backend import RemoteBackend
    from hybrid_infer.remote.keys import Secret


class Backends:
    """The local backend and one backend a remote.

    Args:
        remotes: the configured remotes in order.
        api_key: the explicit key: the first remote's, and that of Hugging Face's own hosts.
        settings: the client's settings.
        device: what local models are computed on.
        dtype: what they are computed in.
        allow_download: whether a call may fetch a missing local copy.
        on_event: told about loads.
        on_limits: told a remote's name and its rate limit by each of its replies that tells one.

    Raises:
        ConfigError: a key may not be sent to its remote.
    """

    def __init__(
        self,
        remotes: Sequence[RemoteSpec],
        api_key: str | None,
        *,
        settings: Settings,
        device: str,
        dtype: str,
        allow_download: bool,
        on_event: Observer,
        on_limits: Callable[[str, RateLimitState], None],
    ) -> None:
        self._specs = {remote.name: remote for remote in remotes}
        self._settings = settings
        self._device, self._dtype = device, dtype
        self._allow_download = allow_download
        self._on_event = on_event
        self._on_limits = on_limits
        self._lock = Lock()
        self._remotes: dict[str, RemoteBackend] = {}
        self._local: LocalBackend | None = None
        self._keys = _find_keys(remotes, api_key)
        self.is_closed = False
        self.pauses = Pauses()

    def has_key(self, remote: RemoteSpec) -> bool:
        """Whether there is a key for `remote`."""
        return self._keys.get(remote.name) is not None

    def download_token(self) -> str | None:
        """The key to download with: the first one that belongs to Hugging Face."""
        from hybrid_infer.remote.keys import is_huggingface_host

        for name, key in self._keys.items():
            if key is not None and is_huggingface_host(self._specs[name].base_url):
                return key.reveal()
        return None

    @property
    def local(self) -> LocalBackend:
        """The local backend."""
        if self._local is None:
            from hybrid_infer.local.backend import LocalBackend

            with self._lock:
                if self._local is None:
                    self._local = LocalBackend(
                        settings=self._settings,
                        device=self._device,
                        dtype=self._dtype,
                        allow_download=self._allow_download,
                        token=self.download_token,
                        on_event=self._on_event,
                    )
        return self._local

    def get(self, name: str) -> Backend:
        """The backend behind a target's name.

        Raises:
            EngineClosedError: a call has waited, and the client was closed meanwhile.
        """
        self._check_open()
        if name == LOCAL.name:
            return self.local
        backend = self._remotes.get(name)
        if backend is None:
            from hybrid_infer.remote.backend import RemoteBackend

            with self._lock:
                self._check_open()  # or nobody would close what is made now
                backend = self._remotes.get(name)
                if backend is None:
                    spec, key = self._specs[name], self._keys.get(name)
                    backend = RemoteBackend(
                        spec,
                        key=key,
                        settings=self._settings,
                        on_limits=lambda state: self._on_limits(name, state),
                    )
                    self._remotes[name] = backend
        return backend

    def _check_open(self) -> None:
        if self.is_closed:
            raise EngineClosedError("the client was closed during the call")

    def _stop(self) -> list[Backend]:
        with self._lock:
            self.is_closed = True
            started: list[Backend] = list(self._remotes.values())
            if self._local is not None:
                started.append(self._local)
        self.pauses.end()
        return started

    def close(self) -> None:
        """Close what was started; also run for a client that was lost, and at interpreter exit."""
        for backend in self._stop():
            backend.close()

    async def aclose(self) -> None:
        """`close`, awaited."""
        for backend in self._stop():
            await backend.aclose()


def _find_keys(remotes: Sequence[RemoteSpec], api_key: str | None) -> dict[str, Secret | None]:
    """Each remote's key; an explicit one goes to no third host."""
    from hybrid_infer.remote.keys import find_key, is_huggingface_host

    return {
        remote.name: find_key(
            remote, api_key if index == 0 or is_huggingface_host(remote.base_url) else None
        )
        for index, remote in enumerate(remotes)
    }
