"""The demo's four phases: the same calls, from a few threads, while the remote fails and returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli.demo.records import Call, Phase, Task

if TYPE_CHECKING:
    from hybrid_infer import HybridClient
    from hybrid_infer.datatypes.route import Route

THREADS = 4
CALL_INTERVAL_SECONDS = 0.11
CHAT_EVERY = 8
CHAT_MAX_TOKENS = 8
RETURN_CALLS = 12
RETURN_LIMIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens to the remote before a phase starts.

    Attributes:
        name: the phase's label.
        begin: changes the remote.
        until_remote_serves: whether the phase goes on, for a bounded time, until the remote
            serves again.
    """

    name: str
    begin: Callable[[], None]
    until_remote_serves: bool = False


class Performance:
    """Plays scenes and writes down every call.

    Args:
        embedder: serves the embed calls.
        talker: serves the chat calls.
        batches: texts of each embed call of a phase; every phase sends all of them.
        count_requests: requests that have reached the remote so far.
        on_phase: told each phase's name as it starts.
    """

    def __init__(
        self,
        embedder: HybridClient,
        talker: HybridClient,
        batches: Sequence[list[str]],
        count_requests: Callable[[], int],
        on_phase: Callable[[str], None],
    ) -> None:
        self._embedder = embedder
        self._talker = talker
        self._batches = batches
        self._count_requests = count_requests
        self._on_phase = on_phase
        self._clock_start = 0.0
        self.calls: list[Call] = []
        self.phases: list[Phase] = []

    def play(self, scenes: Sequence[Scene]) -> None:
        """Play every scene, one after the other."""
        self._clock_start = time.monotonic()
        for scene in scenes:
            self._play_one(scene)

    @property
    def calls_per_phase(self) -> int:
        """Calls of a phase that is not prolonged."""
        return len(self._batches) + len(self._batches) // (CHAT_EVERY - 1)

    def _play_one(self, scene: Scene) -> None:
        index, requests = len(self.phases), self._count_requests()
        self._on_phase(scene.name)
        scene.begin()
        started = self._now()
        with ThreadPoolExecutor(THREADS) as threads:

            def submit(numbers: range) -> None:
                ends = [
                    threads.submit(self._one, index, n, started + n * CALL_INTERVAL_SECONDS)
                    for n in numbers
                ]
                self.calls += [end.result() for end in ends]

            number = self.calls_per_phase
            submit(range(number))
            while self._must_go_on(scene, index, started):
                submit(range(number, number + THREADS))
                number += THREADS
        self.phases.append(
            Phase(scene.name, started, self._now(), self._count_requests() - requests)
        )

    def _must_go_on(self, scene: Scene, index: int, started: float) -> bool:
        if not scene.until_remote_serves or self._now() - started > RETURN_LIMIT_SECONDS:
            return False
        served = sum(call.phase == index and call.server == "remote" for call in self.calls)
        return served < RETURN_CALLS

    def _one(self, phase: int, number: int, due: float) -> Call:
        time.sleep(max(0.0, due - self._now()))
        wants_chat = number % CHAT_EVERY == CHAT_EVERY - 1
        return self._chat(phase, number) if wants_chat else self._embed(phase, number)

    def _embed(self, phase: int, number: int) -> Call:
        batch = (number - number // CHAT_EVERY) % len(self._batches)
        started = self._now()
        try:
            result = self._embedder.embed(self._batches[batch], model="small")
        except Exception as error:  # noqa: BLE001 - the demo counts every call that ends badly
            return self._lost(phase, "embed", started, error)
        return Call(
            phase=phase,
            task="embed",
            started=started,
            latency_seconds=self._now() - started,
            batch=batch,
            vectors=result.vectors,
            **_served(result.route),
        )

    def _chat(self, phase: int, number: int) -> Call:
        started = self._now()
        try:
            result = self._talker.chat_completion(
                f"Question {number}: what is latency?", model="small", max_tokens=CHAT_MAX_TOKENS
            )
        except Exception as error:  # noqa: BLE001 - the demo counts every call that ends badly
            return self._lost(phase, "chat", started, error)
        return Call(
            phase=phase,
            task="chat",
            started=started,
            latency_seconds=self._now() - started,
            **_served(result.route),
        )

    def _lost(self, phase: int, task: Task, started: float, error: Exception) -> Call:
        return Call(
            phase=phase,
            task=task,
            started=started,
            latency_seconds=self._now() - started,
            server=None,
            error=f"{type(error).__name__}: {error}",
        )

    def _now(self) -> float:
        return time.monotonic() - self._clock_start


def _served(route: Route) -> dict[str, Any]:
    return {
        "server": "remote" if route.backend == "remote" else "local",
        "reason": str(route.reason),
        "dtype": route.dtype,
    }
