"""How far local copies are from answering: file looks only, no tensors, remembered briefly."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import HybridInferError, ModelNotDownloadedError
from hybrid_infer.local.copies import find_copy
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.targets import Exclusion, Readiness, ReadinessState
from hybrid_infer.snapshots.facts import SnapshotFacts

LOOK_AGAIN_SECONDS = 2.0
LOAD_BYTES_PER_SECOND = 1e9
HASH_BYTES_PER_SECOND = 1.3e9  # before a process loads a model for the first time
LEAST_LOAD_SECONDS = 0.5
DOWNLOAD_SECONDS = 60.0  # nothing is known of the line before a download has been timed


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at a copy: its facts, or why there are none."""

    seen_at: float
    facts: SnapshotFacts | None
    error: HybridInferError | None


class Shelf:
    """Looks at snapshots on disk, at most once in two seconds each.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: dict[tuple[str, str, str | None], _Look] = {}
        self._lock = Lock()

    def look(self, spec: ModelSpec) -> tuple[SnapshotFacts | None, HybridInferError | None]:
        """The facts of `spec`'s snapshot, or the error that finding it raises."""
        now = self._clock()
        key = (spec.name, spec.repo, spec.revision)
        look = self._looks.get(key)
        if look is None or now - look.seen_at > LOOK_AGAIN_SECONDS:
            with self._lock:
                look = self._looks[key] = _looked(spec, now)
        return look.facts, look.error

    def forget(self, spec: ModelSpec) -> None:
        """Look again at the next question."""
        self._looks.pop((spec.name, spec.repo, spec.revision), None)


def _looked(spec: ModelSpec, now: float) -> _Look:
    try:
        _, facts = find_copy(spec)
    except HybridInferError as error:
        return _Look(now, None, error)
    return _Look(now, facts, None)


def unloaded_readiness(
    facts: SnapshotFacts | None,
    error: HybridInferError | None,
    *,
    load_seconds: float | None,
    may_download: bool,
    may_be_quantized: bool = False,
) -> Readiness:
    """The readiness of a copy that is not in memory.

    Args:
        facts: what its snapshot says, if there is one.
        error: why there is none.
        load_seconds: how long its last load took, if it was ever loaded.
        may_download: whether a missing one may be fetched.
        may_be_quantized: whether it may turn out to be quantised.
    """
    if facts is not None:
        per_byte = 1 / LOAD_BYTES_PER_SECOND + 1 / HASH_BYTES_PER_SECOND
        guess = max(LEAST_LOAD_SECONDS, facts.weight_bytes * per_byte)
        return Readiness(
            ReadinessState.COLD, load_seconds or guess, may_be_quantized=may_be_quantized
        )
    if error is None:
        raise ValueError("a look gives facts or an error")
    if isinstance(error, ModelNotDownloadedError) and may_download:
        return Readiness(ReadinessState.COLD, DOWNLOAD_SECONDS, may_be_quantized=may_be_quantized)
    return absent(error)


def may_be_quantized(spec: ModelSpec, facts: SnapshotFacts | None) -> bool:
    """Whether the copy of `spec` may turn out to be quantised once it is loaded; a file says so now."""
    if spec.gguf is not None and facts is not None:
        return facts.quantization is not None
    return spec.allow_quantized


def absent(error: HybridInferError) -> Readiness:
    """The readiness of a copy that cannot serve, because of `error`."""
    is_missing = isinstance(error, ModelNotDownloadedError)
    reason = Reason.NOT_DOWNLOADED if is_missing else Reason.LOCAL_ERROR
    return Readiness(
        ReadinessState.ABSENT, exclusion=Exclusion(LOCAL, reason, error.message, error)
    )
