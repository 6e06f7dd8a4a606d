"""What the routes work with: one client, its limits, and what is counted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.server.admission import Admission
from hybrid_infer.server.health import Health
from hybrid_infer.server.metrics import Metrics
from hybrid_infer.server.statistics import Statistics
from hybrid_infer.server.token_ids import TokenTexts
from hybrid_infer.settings import ServerSettings


@dataclass(slots=True)
class Service:
    """The state of one server.

    Attributes:
        client: serves every call.
        limits: what a client may ask for.
        statistics: an observer of the client: what the page and `/status` tell.
        metrics: another one: what `/metrics` tells.
        token_texts: makes texts of token ids; None: they are refused.
        is_draining: set once the server has been told to stop.
    """

    client: AsyncHybridClient
    limits: ServerSettings
    statistics: Statistics
    metrics: Metrics
    token_texts: TokenTexts | None = None
    is_draining: bool = False
    admission: Admission = field(init=False)
    health: Health = field(init=False)
    started_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.admission = Admission(self.limits)
        self.health = Health(self.client, self.statistics)
        self.metrics.watch(self.admission)


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.service
    return service
