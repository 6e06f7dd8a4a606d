"""`verify`: whether the copies of a model that could serve are the same model.

Every remote that can serve is compared with the local copy; where only one of the two is there,
it is compared with the goldens of this package. It fails closed: a side that should answer and
does not is a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hybrid_infer.client.drive import drive
from hybrid_infer.client.naming import resolved_by_files
from hybrid_infer.client.parity import bound_for, compare, failures_of
from hybrid_infer.client.planning import planned
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.parity import ParityReport, ProbeParity
from hybrid_infer.datatypes.replies import EmbedReply
from hybrid_infer.datatypes.requests import Request
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    HybridInferError,
    InsufficientMemoryError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
    UnverifiableError,
)
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.targets import Result
from hybrid_infer.snapshots.goldens import load_goldens
from hybrid_infer.snapshots.probes import PROBES

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

# A target that is not here says nothing; whatever else keeps one from answering is a failure.
_NOT_HERE = (
    APIConnectionError,
    AuthenticationError,
    InsufficientMemoryError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
)
_GREETING = "Hi"  # the name in the reply is what counts


@dataclass(slots=True)
class _Answers:
    """What the targets that were asked said, by name."""

    replies: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def has_local(self) -> bool:
        """Whether the local copy took part, well or badly."""
        return LOCAL.name in self.replies or LOCAL.name in self.failures

    @property
    def has_remote(self) -> bool:
        """Whether a remote took part, well or badly."""
        return any(name != LOCAL.name for name in (*self.replies, *self.failures))


def verify(session: Session, name: str) -> ParityReport:
    """See `HybridClient.verify`."""
    session.check_open()
    spec = resolved_by_files(session.registry, name)
    return _verify_name(session, spec) if spec.task == "chat" else _verify_vectors(session, spec)


def _verify_vectors(session: Session, spec: ModelSpec) -> ParityReport:
    request = session.embed_request(
        [probe.text for probe in PROBES], spec.name, normalize=True, truncate=True
    )
    answers = _ask(session, request, [*_remotes(session), *_local(session)])
    vectors = {name: cast("EmbedReply", reply).vectors for name, reply in answers.replies.items()}
    dtype = None
    if LOCAL.name in answers.replies:
        dtype = answers.replies[LOCAL.name].provenance.dtype
    if answers.has_local and answers.has_remote:
        compared, reference = "remote:local", vectors.pop(LOCAL.name, None)
    else:
        goldens = load_goldens(spec)
        if goldens is None or not (answers.has_local or answers.has_remote):
            raise _unverifiable(spec, answers, "it has no goldens" if goldens is None else "")
        compared = "local:goldens" if answers.has_local else "remote:goldens"
        reference = goldens.vectors
    bound = bound_for(dtype if compared == "local:goldens" else None)
    rows: list[ProbeParity] = []
    if reference is not None:
        for target, judged in vectors.items():
            rows += compare(target, PROBES, judged, reference, bound)
    report = _report(spec, compared, rows, answers, dtype=dtype, bound=bound)
    if report.ok:
        for target in vectors:
            session.canary.trust(target, spec)
    return report


def _verify_name(session: Session, spec: ModelSpec) -> ParityReport:
    """Chat: two copies sample different words, so what a remote calls itself is all there is."""
    request = session.chat_request(_GREETING, spec.name, max_tokens=1, temperature=0)
    answers = _ask(session, request, _remotes(session))
    if not answers.has_remote:
        raise _unverifiable(spec, answers, "of chat only a remote's name for it can be checked")
    rows = [
        ProbeParity(
            target,
            "model name",
            why="" if reply.provenance.verified else f"its reply does not name {spec.repo}",
        )
        for target, reply in answers.replies.items()
    ]
    return _report(spec, "remote:name", rows, answers)


def _remotes(session: Session) -> list[str]:
    """The remotes that the policy allows."""
    if session.policy == "local-only":
        return []
    return [remote.name for remote in session.remotes]


def _local(session: Session) -> list[str]:
    return [] if session.policy == "remote-only" else [LOCAL.name]


def _ask(session: Session, request: Request, targets: Sequence[str]) -> _Answers:
    """Send `request` to each of `targets` as a call with ``route=`` would be."""
    answers, task = _Answers(), request.spec.task
    for target in targets:
        try:
            planned(session, request, target, session.limit(task, None))
        except HybridInferError as error:
            kept_away = answers.left_out if isinstance(error, _NOT_HERE) else answers.failures
            kept_away[target] = error.message
            continue
        try:
            if target == LOCAL.name:
                session.local.warm(request.spec)  # however long that takes
            call = planned(session, request, target, session.limit(task, None))
            answers.replies[target] = drive(call.flow, call.dispatch).result
        except HybridInferError as error:
            answers.failures[target] = f"{type(error).__name__}: {error.message}"
    return answers


def _report(
    spec: ModelSpec,
    compared: str,
    rows: Sequence[ProbeParity],
    answers: _Answers,
    *,
    dtype: str | None = None,
    bound: float | None = None,
) -> ParityReport:
    failures = (*_lines(answers.failures), *failures_of(rows))
    norms = [row.norm for row in rows if row.norm is not None]
    replies = [reply for reply in answers.replies.values() if isinstance(reply, EmbedReply)]
    return ParityReport(
        name=spec.name,
        repo=spec.repo,
        revision=spec.revision,
        compared=compared,
        ok=not failures,
        cos_min=min((row.cosine for row in rows if row.cosine is not None), default=None),
        max_abs=max((row.max_abs for row in rows if row.max_abs is not None), default=None),
        dim=replies[0].vectors.shape[1] if replies else None,
        norm_min=min(norms, default=None),
        norm_max=max(norms, default=None),
        dtype=dtype,
        bound=bound,
        probes=tuple(rows),
        failures=failures,
        left_out=_lines(answers.left_out),
    )


def _lines(reasons: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{target}: {reason}" for target, reason in reasons.items())


def _unverifiable(spec: ModelSpec, answers: _Answers, why: str) -> UnverifiableError:
    error = UnverifiableError(
        f"{spec.name} is unverifiable here: there are no two sides to compare"
        + (f"; {why}" if why else "")
    )
    for line in (*_lines(answers.left_out), *_lines(answers.failures)):
        error.add_note(line)
    return error
