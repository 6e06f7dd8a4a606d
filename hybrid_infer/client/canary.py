"""Which remotes' vectors are due for a comparison, and which have passed one lately."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.registry.urls import is_loopback
from hybrid_infer.settings import RoutingSettings

Key = tuple[str, str]


def _key(target_name: str, spec: ModelSpec) -> Key:
    return (target_name, spec.repo)


class Canary:
    """The schedule of comparisons, one entry a remote and model; `comparing` makes them.

    Only pinned models are compared: what is not pinned may rightly change.

    Args:
        remotes: the configured remotes.
        settings: whom to watch, and how often.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, remotes: Sequence[RemoteSpec], settings: RoutingSettings, *, clock: Clock
    ) -> None:
        self._seconds = settings.canary_seconds
        self._clock = clock
        self._watched = frozenset(
            remote.name
            for remote in remotes
            if settings.canary == "always"
            or (settings.canary == "elsewhere" and not is_loopback(remote.base_url))
        )
        self._lock = Lock()
        self._due_at: dict[Key, float] = {}
        self._trusted_until: dict[Key, float] = {}

    def watches(self, target_name: str, spec: ModelSpec) -> bool:
        """Whether the vectors that `target_name` makes with `spec` are compared at all."""
        return target_name in self._watched and spec.revision is not None

    def take(self, target_name: str, spec: ModelSpec, can_be_judged: Callable[[], bool]) -> bool:
        """Whether a comparison is due now; if so, the next one is due in ``canary_seconds``.

        Args:
            target_name: a remote.
            spec: the model.
            can_be_judged: whether there is anything to compare with; asked only if one is due.
        """
        if not self.watches(target_name, spec):
            return False
        key, now = _key(target_name, spec), self._clock()
        if now < self._due_at.get(key, -math.inf) or not can_be_judged():
            return False
        with self._lock:
            if now < self._due_at.get(key, -math.inf):
                return False  # another thread has just taken it
            self._due_at[key] = now + self._seconds
        return True

    def trust(self, target_name: str, spec: ModelSpec) -> None:
        """Note that a comparison went well; it counts for ``canary_seconds``."""
        self._trusted_until[_key(target_name, spec)] = self._clock() + self._seconds

    def distrust(self, target_name: str, spec: ModelSpec) -> None:
        """Note that a comparison went badly: the next is due as soon as the remote is asked again."""
        key = _key(target_name, spec)
        self._due_at.pop(key, None)
        self._trusted_until.pop(key, None)

    def trusts(self, target_name: str, spec: ModelSpec) -> bool:
        """Whether a comparison went well lately."""
        return self._clock() < self._trusted_until.get(_key(target_name, spec), -math.inf)
