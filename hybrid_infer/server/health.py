"""Whether the server can serve: by what it has just served or computes, else by a real, tiny call."""

from __future__ import annotations

import asyncio
import time

from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.errors import DeadlineExceededError, HybridInferError, OverloadedError
from hybrid_infer.server.statistics import Statistics

SURE_SECONDS = 10.0
PROBE_SECONDS = 5.0
PROBE_TEXT = "health"


class Health:
    """Answers health checks. For one event loop.

    A call that was served a moment ago is proof enough, and so is a local copy that is at work: what
    is asked of it now may wait long behind what was asked before. Otherwise every local copy in
    memory computes something tiny; a remote is never asked, because each answer of it costs money. A
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
            if await self._progresses(name, when_busy=True):
                continue
            try:
                await self._compute(task, name)
            except HybridInferError as error:
                if not await self._only_waited(error, name):
                    return f"{name}: {error.message}"
        self._probed_at = self._clock()
        return None

    async def _only_waited(self, error: HybridInferError, name: str) -> bool:
        """Whether the probe was but one too many for a copy that computes."""
        is_full = isinstance(error, DeadlineExceededError | OverloadedError)
        return is_full and await self._progresses(name)

    async def _progresses(self, name: str, *, when_busy: bool = False) -> bool:
        """Whether a local copy has computed something a moment ago; of an idle one that says little."""
        copies = (await asyncio.to_thread(self._client.status))["local"]
        seconds = copies[name]["computed_seconds"]
        is_recent = seconds is not None and seconds < SURE_SECONDS
        return is_recent and (copies[name]["is_busy"] or not when_busy)

    async def _compute(self, task: str, name: str) -> None:
        if task == "embeddings":
            await self._client.embed(PROBE_TEXT, name, route="local", deadline=PROBE_SECONDS)
        else:
            await self._client.chat_completion(
                PROBE_TEXT, name, max_tokens=1, route="local", deadline=PROBE_SECONDS
            )
