"""What a client has: its models, their states, and the calls that fetch, load and drop them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.client.naming import resolved_by_files, resolved_for_each_task
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.parity import ParityReport
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.health import Key, host_of
from hybrid_infer.routing.targets import Target
from hybrid_infer.routing.verdicts import Scope

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session


def pull(
    session: Session, name: str, source: str | os.PathLike[str] | None, *, progress: bool
) -> Path:
    """See `HybridClient.pull`."""
    from hybrid_infer.snapshots.download import pull as download

    return download(
        session.registry.resolve_named(name),
        token=session.backends.download_token(),
        progress=progress,
        source=None if source is None else Path(source),
        strict=session.settings.trust.strict,
    )


def warm(session: Session, names: str | Iterable[str]) -> None:
    """See `HybridClient.warm`."""
    session.check_open()
    for spec in [resolved_by_files(session.registry, name) for name in _listed(names)]:
        session.local.warm(spec)


def unload(session: Session, names: str | Iterable[str]) -> None:
    """See `HybridClient.unload`."""
    session.check_open()
    for meant in [resolved_for_each_task(session.registry, name) for name in _listed(names)]:
        for spec in meant:
            session.local.unload(spec)


def _listed(names: str | Iterable[str]) -> list[str]:
    if not isinstance(names, Iterable):
        raise InvalidRequestError(
            f"names must be a name or several, not {type(names).__name__}", argument="names"
        )
    return [names] if isinstance(names, str) else list(names)


def list_models(session: Session) -> list[dict[str, Any]]:
    """See `HybridClient.list_models`."""
    return [_row(session, spec) for spec in session.registry.models]


def _row(session: Session, spec: ModelSpec) -> dict[str, Any]:
    copy = session.local.status(spec)
    return {
        "name": spec.name,
        "task": spec.task,
        "alias": spec.alias,
        "repo": spec.repo,
        "revision": spec.revision,
        "dim": spec.dim,
        "max_seq_length": spec.max_seq_length,
        "context_length": spec.context_length,
        "remotes": [r.name for r in session.remotes if r.model_id(spec) is not None],
        "local": copy.state,
        "local_detail": copy.detail,
        "local_device": copy.device,
        "local_dtype": copy.dtype,
        "local_quantization": copy.quantization,
        "local_options": list(session.local.options(spec)),
    }


def status(session: Session) -> dict[str, Any]:
    """See `HybridClient.status`."""
    closures = session.health.snapshot()
    remotes = {
        name: _remote_status(session, target, closures) for name, target in session.targets.items()
    }
    local = {spec.name: asdict(session.local.status(spec)) for spec in session.registry.models}
    return {"policy": session.policy, "remotes": remotes, "local": local}


def _remote_status(
    session: Session, target: Target, closures: dict[Key, Closure]
) -> dict[str, Any]:
    now = session.clock()
    closed = [
        {
            "scope": scope.value,
            "model": f"{task}/{repo}" if repo else None,
            "state": closure.state,
            "reason": str(closure.reason),
            "opens_in_seconds": closure.until - now,
            "detail": closure.error.message,
        }
        for (scope, name, task, repo), closure in closures.items()
        if name == (host_of(target) if scope is Scope.HOST else target.name)
    ]
    wait = session.pacing.of(target.name).wait_seconds(now)
    if all(entry["scope"] == Scope.MODEL.value for entry in closed):
        state = "partly_available" if closed else "available"
    else:
        state = "unavailable"
    return {"state": state, "closed": closed, "paced_seconds": wait}


def verify(session: Session, name: str) -> ParityReport:
    """See `HybridClient.verify`."""
    from hybrid_infer.client.verify import verify as compared  # a rare wish, and much to import

    return compared(session, name)


def reset(session: Session, name: Any) -> None:
    """See `HybridClient.reset`."""
    if name is not None and not (isinstance(name, str) and name in session.targets):
        known = ", ".join(session.targets) or "none"
        raise InvalidRequestError(
            f"target={name!r} is no remote; configured: {known}", argument="target"
        )
    targets = [t for t in session.targets.values() if name in (None, t.name)]
    session.health.reset(None if name is None else targets)
    session.pacing.reset(name)
