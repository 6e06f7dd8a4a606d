"""What a client has: its models, their states, and the calls that fetch, load and drop them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.datatypes.models import ModelSpec

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
    )


def warm(session: Session, names: str | Iterable[str]) -> None:
    """See `HybridClient.warm`."""
    session.check_open()
    for spec in _named(session, names):
        session.local.warm(spec)


def unload(session: Session, names: str | Iterable[str]) -> None:
    """See `HybridClient.unload`."""
    session.check_open()
    for spec in _named(session, names):
        session.local.unload(spec)


def _named(session: Session, names: str | Iterable[str]) -> list[ModelSpec]:
    wanted = [names] if isinstance(names, str) else list(names)
    return [session.registry.resolve_named(name) for name in wanted]


def list_models(session: Session) -> list[dict[str, Any]]:
    """See `HybridClient.list_models`."""
    return [_row(session, spec) for spec in session.registry.models]


def _row(session: Session, spec: ModelSpec) -> dict[str, Any]:
    readiness = session.local.readiness(spec, may_download=False)
    exclusion = readiness.exclusion
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
        "local": str(readiness.state),
        "local_detail": "" if exclusion is None else exclusion.error.message,
        "local_options": list(session.local.options(spec)),
    }


def status(session: Session) -> dict[str, Any]:
    """See `HybridClient.status`."""
    now = session.clock()
    closed: dict[str, list[dict[str, Any]]] = {remote.name: [] for remote in session.remotes}
    for key, gate in session.health.snapshot().items():
        closed.setdefault(key[0], []).append(
            {
                "scope": "/".join(key[1:]) or "account",
                "reason": str(gate.reason),
                "opens_in_seconds": gate.until - now,
                "detail": gate.error.message,
            }
        )
    remotes = {
        name: {"state": "closed" if gates else "open", "gates": gates}
        for name, gates in closed.items()
    }
    local = {
        spec.name: str(session.local.readiness(spec, may_download=False).state)
        for spec in session.registry.models
    }
    return {"policy": session.policy, "remotes": remotes, "local": local}
