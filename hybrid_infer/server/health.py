"""Whether the server can serve: by what it has just served, else by a real, tiny call."""

from __future__ import annotations

import asyncio
import time

from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import HybridInferError
from hybrid_infer.server.statistics import Statistics

SURE_SECONDS = 10.0
PROBE_SECONDS = 5.0
PROBE_TEXT = "health"


class Health:
    """Answers health checks. For one event loop.

    A call that was served a moment ago is proof enough. Otherwise every local copy in memory
    computes something tiny; a remote is never asked, because each answer of it costs money. A
    server that has loaded nothing yet is healthy.

    Args:
        client: what is checked.
        statistics: knows when a call was last served.
        clock: monotonic seconds, the same as the statistics'.
    """

    def __init__(
        self, client: AsyncHybridClient, statistics: Statistics, clock: Clock = time.monotonic
    ) -> None:
        self._client, self._statistics, self._clock = client, statistics, clock
        self._probe: asyncio.Task[str | None] | None = None
        self._probed_at: float | None = None

    async def problem(self) -> str | None:
        """What is wrong, or None; checks that come together share one probe."""
        if self._is_recent(self._statistics.last_success_at) or self._is_recent(self._probed_at):
            return None
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_all())
        return await asyncio.shield(self._probe)  # a client that leaves ends nobody else's check

    def _is_recent(self, moment: float | None) -> bool:
        return moment is not None and self._clock() - moment < SURE_SECONDS

    async def _probe_all(self) -> str | None:
        rows = await asyncio.to_thread(self._client.list_models)
        repos = {(row["task"], row["repo"]): row["name"] for row in rows if row["local"] == "warm"}
        for (task, _), name in repos.items():
            try:
                await self._compute(task, name)
            except HybridInferError as error:
                return f"{name}: {error.message}"
        self._probed_at = self._clock()
        return None

    async def _compute(self, task: str, name: str) -> None:
        if task == "embeddings":
            await self._client.embed(PROBE_TEXT, name, route="local", deadline=PROBE_SECONDS)
        else:
            await self._client.chat_completion(
                PROBE_TEXT, name, max_tokens=1, route="local", deadline=PROBE_SECONDS
            )
