"""The canary: now and then, behind the callers' backs, is a remote's model still the pinned one?

A provider that swaps the model, or lets its tokenizer lose accents, goes on answering vectors of
the right shape and length. So after a successful call, at most once in ``canary_seconds`` for
each remote and model, two probes are embedded there and compared with this package's goldens, or
with the local copy where it is warm. A reply that is no list of unit vectors needs no canary:
every call refuses it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.client.backends import Backends
from hybrid_infer.client.parity import bound_for, compare, failures_of
from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.datatypes.parity import ProbeParity
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import EmbeddingSpaceMismatchError, HybridInferError
from hybrid_infer.events import Observer, RemoteQuarantined
from hybrid_infer.registry.urls import is_loopback
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.targets import Backend, ReadinessState, Target
from hybrid_infer.routing.verdicts import Gate, Scope
from hybrid_infer.settings import RoutingSettings
from hybrid_infer.snapshots.goldens import has_goldens, load_goldens
from hybrid_infer.snapshots.probes import CANARY_PROBES

QUARANTINE_SECONDS = 3600.0
THREAD_NAME = "hybrid-infer-canary"
Key = tuple[str, str]

logger = logging.getLogger("hybrid_infer")


def quarantine(
    health: Health, target: Target, spec: ModelSpec, error: EmbeddingSpaceMismatchError
) -> None:
    """Ask `target` for nothing of `spec` for an hour: its vectors are another model's."""
    health.close(
        target,
        spec,
        Gate(Scope.MODEL, QUARANTINE_SECONDS),
        seconds=QUARANTINE_SECONDS,
        reason=Reason.BAD_RESPONSE,
        error=error,
    )


class Canary:
    """Which remotes are due for a comparison, and which have passed one.

    It holds backends and not the client, so that a comparison under way keeps no client alive;
    closing the backends ends it. Nothing starts before the first `served`.

    Args:
        remotes: the configured remotes.
        backends: where the probes are sent, and the local copy is.
        health: where a quarantine is noted.
        settings: whom to watch and how often.
        on_event: told about quarantines.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        remotes: Sequence[RemoteSpec],
        backends: Backends,
        health: Health,
        settings: RoutingSettings,
        on_event: Observer,
        *,
        clock: Clock,
    ) -> None:
        self._backends = backends
        self._health = health
        self._settings = settings
        self._on_event = on_event
        self._clock = clock
        self._lock = threading.Lock()
        self._due_at: dict[Key, float] = {}
        self._trusted_until: dict[Key, float] = {}
        self._watched = frozenset(
            remote.name
            for remote in remotes
            if settings.canary == "always"
            or (settings.canary == "elsewhere" and not is_loopback(remote.base_url))
        )

    def served(self, target: Target, spec: ModelSpec) -> None:
        """Hear that `target` has embedded with `spec`; returns at once.

        Only pinned models are compared: what is not pinned may rightly change.
        """
        if target.name not in self._watched or spec.revision is None:
            return
        key, now = _key(target.name, spec), self._clock()
        if now < self._due_at.get(key, -math.inf) or not self._is_judgeable(spec):
            return
        with self._lock:
            if now < self._due_at.get(key, -math.inf):
                return
            self._due_at[key] = now + self._settings.canary_seconds
        thread = threading.Thread(
            target=self._compare, args=(target, spec), name=THREAD_NAME, daemon=True
        )
        with contextlib.suppress(RuntimeError):  # no thread to be had: the call has its answer
            thread.start()

    def trust(self, target_name: str, spec: ModelSpec) -> None:
        """Note that a comparison went well; it counts for as long as one is not due again."""
        until = self._clock() + self._settings.canary_seconds
        self._trusted_until[_key(target_name, spec)] = until

    def trusts(self, target_name: str, spec: ModelSpec) -> bool:
        """Whether a comparison of `spec` at this remote went well lately."""
        return self._clock() < self._trusted_until.get(_key(target_name, spec), -math.inf)

    def _is_judgeable(self, spec: ModelSpec) -> bool:
        if has_goldens(spec):
            return True
        readiness = self._backends.local.readiness(spec, may_download=False)
        return readiness.state is ReadinessState.WARM

    def _compare(self, target: Target, spec: ModelSpec) -> None:
        try:
            if self._health.closed(target, spec) is not None:
                return
            rows = self._rows(target, spec)
        except HybridInferError as error:
            # Nobody waits for this, and whatever it is, the next call meets it too.
            logger.debug("no canary for %s at %s: %s", spec.name, target.name, error.message)
            return
        if failures_of(rows):
            self._quarantine(target, spec, rows)
        else:
            self.trust(target.name, spec)

    def _rows(self, target: Target, spec: ModelSpec) -> tuple[ProbeParity, ...]:
        judged = self._embedded(self._backends.get(target.name), spec)
        goldens = load_goldens(spec)
        if goldens is None:
            reference = self._embedded(self._backends.get(LOCAL.name), spec)
        else:
            reference = goldens.vectors[: len(CANARY_PROBES)]
        return compare(target.name, CANARY_PROBES, judged, reference, bound_for(None))

    def _embedded(self, backend: Backend, spec: ModelSpec) -> NDArray[np.float32]:
        request = EmbedRequest(spec, tuple(probe.text for probe in CANARY_PROBES))
        deadline = Deadline(self._settings.attempt_timeout_seconds, clock=self._clock)
        reply = backend.call(request, deadline)
        if not isinstance(reply, EmbedReply):
            raise TypeError(f"an embed request was answered with {type(reply).__name__}")
        return reply.vectors

    def _quarantine(self, target: Target, spec: ModelSpec, rows: Sequence[ProbeParity]) -> None:
        key = _key(target.name, spec)
        # Due as soon as it is asked again, be it in an hour or after a reset.
        self._due_at.pop(key, None)
        self._trusted_until.pop(key, None)
        failure = failures_of(rows)[0]
        error = EmbeddingSpaceMismatchError(
            f"the vectors of {target.name} are not those of {spec.repo}@{spec.revision}: {failure}"
        )
        quarantine(self._health, target, spec, error)
        logger.warning("%s; it is left alone for an hour", error.message)
        cosines = [row.cosine for row in rows if row.cosine is not None]
        self._on_event(
            RemoteQuarantined(
                spec.name, target.name, min(cosines, default=None), QUARANTINE_SECONDS
            )
        )


def _key(target_name: str, spec: ModelSpec) -> Key:
    return (target_name, spec.repo)
