"""The canary's comparison: behind the callers' backs, is a remote's model still the pinned one?

A provider that swaps the model, or whose tokenizer loses accents, goes on answering vectors of
the right shape and length. So after a successful call, when `Canary` says that it is time, two
probes are embedded there and compared with this package's goldens, or with the local copy where
that is warm. Vectors of the wrong shape or length need no canary: every call refuses them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.client.drive import drive
from hybrid_infer.client.parity import bound_for, compare, failures_of
from hybrid_infer.client.planning import planned
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.parity import ProbeParity
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import EmbeddingSpaceMismatchError, HybridInferError, OverloadedError
from hybrid_infer.events import RemoteQuarantined
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.targets import ReadinessState, Target
from hybrid_infer.routing.verdicts import HOUR_SECONDS, VERDICTS
from hybrid_infer.snapshots.goldens import has_goldens, load_goldens
from hybrid_infer.snapshots.probes import CANARY_PROBES

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

THREAD_NAME = "hybrid-infer-canary"
QUARANTINE = VERDICTS[EmbeddingSpaceMismatchError]

logger = logging.getLogger("hybrid_infer")


def compare_soon(session: Session, target: Target, spec: ModelSpec) -> None:
    """Start a comparison if one is due; returns at once, and `close` waits for none."""
    if not session.canary.take(target.name, spec, lambda: _can_be_judged(session, spec)):
        return
    thread = threading.Thread(
        target=_compare_now, args=(session, target, spec), name=THREAD_NAME, daemon=True
    )
    with contextlib.suppress(RuntimeError):  # no thread to be had: the caller has its answer
        thread.start()


def quarantine(
    health: Health, target: Target, spec: ModelSpec, error: EmbeddingSpaceMismatchError
) -> None:
    """Ask `target` for nothing of `spec` for an hour: its vectors are another model's."""
    closure = Closure(QUARANTINE.reason, error)
    if QUARANTINE.gate is not None:
        health.close(target, spec, QUARANTINE.gate, seconds=HOUR_SECONDS, closure=closure)


def _can_be_judged(session: Session, spec: ModelSpec) -> bool:
    if has_goldens(spec):
        return True
    return session.local.readiness(spec, may_download=False).state is ReadinessState.WARM


def _compare_now(session: Session, target: Target, spec: ModelSpec) -> None:
    try:
        judged = _embedded(session, target.name, spec)
        goldens = load_goldens(spec)
        if goldens is None:
            believed = _embedded(session, LOCAL.name, spec)
        else:
            believed = goldens.vectors[: len(CANARY_PROBES)]
    except HybridInferError as error:
        # Nobody waits for this, and what it says of the remote, health has heard.
        logger.debug("no comparison of %s at %s: %s", spec.name, target.name, error.message)
        return
    rows = compare(target.name, CANARY_PROBES, judged, believed, bound_for(None))
    if failures_of(rows):
        _report_mismatch(session, target, spec, rows)
    else:
        session.canary.trust(target.name, spec)


def _embedded(session: Session, target_name: str, spec: ModelSpec) -> NDArray[np.float32]:
    """The canary's probes, as a call with ``route=`` would have them, but without any wait."""
    prompt = session.local.completed(spec).prompt or ""
    request = EmbedRequest(spec, tuple(probe.text for probe in CANARY_PROBES), prompt=prompt)
    limit = Deadline(session.settings.routing.attempt_timeout_seconds, clock=session.clock)
    call = planned(session, request, target_name, limit)
    reply = drive(call.flow, call.dispatch, sleep=_wait_for_nothing).result
    return cast("EmbedReply", reply).vectors


def _wait_for_nothing(seconds: float) -> None:
    raise OverloadedError("a comparison waits for nothing", retry_after=seconds)


def _report_mismatch(
    session: Session, target: Target, spec: ModelSpec, rows: Sequence[ProbeParity]
) -> None:
    session.canary.distrust(target.name, spec)
    if session.cache is not None:
        session.cache.forget(target.name)
    error = EmbeddingSpaceMismatchError(
        f"the vectors of {target.name} are not those of {spec.repo}@{spec.revision}: "
        f"{failures_of(rows)[0]}"
    )
    quarantine(session.health, target, spec, error)
    logger.warning("%s; it is not asked for %s for an hour", error.message, spec.name)
    cosines = [row.cosine for row in rows if row.cosine is not None]
    session.on_event(
        RemoteQuarantined(spec.name, target.name, min(cosines, default=None), HOUR_SECONDS)
    )
