"""What one run of the table shares: servers, a warm local copy, an event loop, a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import numpy as np

from fault_table.bodies import CANARY, NUM_TEXTS, TOO_LARGE_BYTES, filled
from fault_table.broken_places import Certificates, black_hole, no_names
from fault_table.calls import CallLedger
from fault_table.clock import Clock
from fault_table.table import Variant
from hybrid_infer import AsyncHybridClient, HybridClient, RoutingSettings, Settings
from hybrid_infer.client import drive as drivers
from hybrid_infer.client import session as sessions
from hybrid_infer.client.comparing import THREAD_NAME
from hybrid_infer.errors import LocalEngineError
from hybrid_infer.settings import EmbeddingSettings, MemorySettings
from hybrid_infer.testing import EchoAnswers, FakeRemote, load_scenario

TEXTS = [f"text number {number}" for number in range(NUM_TEXTS)]
PROMPT = "five words for an answer"
MAX_TOKENS = 6
MODEL = "small"
PATIENCE_SECONDS = 20.0


class SharedLocal:
    """A client's local backend that outlives the client."""

    def __init__(self, local: Any, *, is_broken: bool) -> None:
        self._local = local
        self._is_broken = is_broken

    def __getattr__(self, name: str) -> Any:
        if self._is_broken and name in ("call", "acall", "stream", "astream"):
            raise LocalEngineError("the local copy is broken for this test")
        return getattr(self._local, name)

    def close(self) -> None:
        """The owner closes it."""

    async def aclose(self) -> None:
        """The owner closes it."""


@dataclass
class Case:
    """One variant with its own clients, which know nothing of what happened before."""

    world: World
    variant: Variant
    sync: HybridClient
    aio: AsyncHybridClient
    events: list[Any]
    calls: CallLedger
    num_elsewhere: list[Any] = field(default_factory=list)

    @property
    def patience(self) -> dict[str, float]:
        """The usual values of what the variant is impatient with."""
        usual = RoutingSettings()
        return {name: getattr(usual, name) for name in self.variant.impatience}

    @property
    def num_requests(self) -> int:
        """Requests that arrived at the remote so far."""
        return len(self.world.fake.ledger) + sum(one.num_requests for one in self.num_elsewhere)

    def prepare_remote(self) -> None:
        """Script the calls that go first."""
        self._enqueue(self.variant.before_steps)

    def break_remote(self, **changes: Any) -> None:
        """Let the fault begin, with every step changed so."""
        self._enqueue([{**step, **changes} for step in self.variant.steps])
        if self.variant.place == "down":
            self.world.fake.go_down()
        if self.variant.impatience:
            self._change_settings(**self.variant.impatience)
            self.world.clock.run()

    def _enqueue(self, steps: Sequence[Mapping[str, Any]]) -> None:
        written = [filled(step, self.world.elsewhere.url) for step in steps]
        for step in load_scenario({"steps": written}).steps:
            for server in self._servers():
                server.enqueue(step.reply, step.times, match=step.match)

    def _servers(self) -> list[FakeRemote]:
        both = [self.world.fake, self.world.elsewhere]
        return both if self.variant.place == "two_remotes" else both[:1]

    def _change_settings(self, **routing: float) -> None:
        """Change what both clients, and their remotes' streams, are patient with."""
        for client in (self.sync, self.aio):
            session = client._session
            session.settings = replace(
                session.settings, routing=replace(session.settings.routing, **routing)
            )
            session.backends.get("huggingface")._settings = session.settings

    def forget(self) -> None:
        """Begin anew with the same clients."""
        self.world.fake.reset()
        for client in (self.sync, self.aio):
            client.reset()

    def mend_remote(self) -> bool:
        """Let the fault end; whether it can."""
        if self.variant.place not in ("fake", "down"):
            return False
        self.world.fake.reset()
        if self.variant.impatience:
            self._change_settings(**self.patience)
            self.world.clock.stop()
        return True


class World:
    """Everything that is made once; a context manager."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fake = FakeRemote("echo")
        self.elsewhere = FakeRemote("echo")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        enter(self.fake)
        enter(self.elsewhere)
        self.runner = enter(asyncio.Runner())
        self._certificates = Certificates()
        self._stack.callback(self._certificates.close)
        keeper = enter(HybridClient(profile="tiny", base_url=self.fake.url, dtype="float32"))
        keeper.warm([f"embeddings/{MODEL}", f"chat/{MODEL}"])
        self._local = keeper._session.local
        self._vectors = {
            ("local", normalize): keeper.embed(
                TEXTS, model=MODEL, route="local", normalize=normalize
            ).vectors
            for normalize in (True, False)
        }
        answer = keeper.chat_completion(
            PROMPT, model=MODEL, route="local", max_tokens=MAX_TOKENS, temperature=0.0
        )
        self.local_text = answer.choices[0].message.content
        self.remote_text = PROMPT
        return self

    def vectors(self, backend: str, *, normalize: bool) -> np.ndarray:
        """What `backend` makes of the texts."""
        if backend == "local":
            return self._vectors[backend, normalize]
        return EchoAnswers().embed(
            "tiny/all-MiniLM-L6-v2", TEXTS, normalize=normalize, truncate=True
        )

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def case(self, variant: Variant) -> Iterator[Case]:
        """`variant`, ready to begin."""
        self.clock.restart()
        for server in (self.fake, self.elsewhere):
            server.reset()
        with contextlib.ExitStack() as stack:
            listeners: list[Any] = []
            url = self._url(variant.place, stack, listeners)
            for driver, sleep in self._sleeps:
                stack.enter_context(mock.patch.object(driver, "__defaults__", (sleep,)))
            events: list[Any] = []
            make = {"base_url": url, "on_event": events.append, **self._options(variant)}
            with mock.patch.object(sessions, "time", SimpleNamespace(monotonic=self.clock)):
                sync, aio = HybridClient(**make), AsyncHybridClient(**make)
            stack.callback(lambda: self.runner.run(aio.close()))
            stack.callback(sync.close)
            for client in (sync, aio):
                session = client._session
                session.randomness.seed(7)
                is_broken = variant.place == "broken_local"
                session.backends._local = SharedLocal(self._local, is_broken=is_broken)
            yield Case(self, variant, sync, aio, events, CallLedger(), listeners)
            join_canaries()

    @property
    def _sleeps(self) -> list[tuple[Any, Any]]:
        """Each driver, and what it does instead of sleeping."""
        return [(drivers.drive, self.clock.sleep), (drivers.drive_async, self.clock.asleep)]

    def _url(self, place: str, stack: contextlib.ExitStack, listeners: list[Any]) -> str:
        if place == "no_name":
            return stack.enter_context(no_names())
        if place == "black_hole":
            return stack.enter_context(black_hole())
        if place.startswith("tls_"):
            listeners.append(stack.enter_context(self._certificates.listener(place)))
            return listeners[0].url
        return self.fake.url

    def _options(self, variant: Variant) -> dict[str, Any]:
        given = {group: dict(values) for group, values in variant.settings.items()}
        routing = {
            "local_embed_seconds": 0.5,  # so that a deadline of 5 s leaves time for the local copy
            "local_chat_seconds": 0.5,
            "connect_timeout_seconds": 0.1 if variant.place == "black_hole" else 3.0,
            "canary": "never",
        } | given.get("routing", {})
        settings = Settings(
            routing=RoutingSettings(**routing),
            embedding=EmbeddingSettings(**given.get("embedding", {})),
            memory=MemorySettings(
                **{"max_body_bytes": TOO_LARGE_BYTES // 2} | given.get("memory", {})
            ),
        )
        options = {
            "profile": "tiny", "dtype": "float32", "api_key": CANARY, "settings": settings
        }  # fmt: skip
        if variant.place == "two_remotes":
            second = {"name": "second", "dialect": "hf-router", "base_url": self.elsewhere.url}
            options["models"] = {"remotes": [{"name": "huggingface"}, second]}
        return options


def join_canaries() -> None:
    """Wait for comparisons that run in the background."""
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(PATIENCE_SECONDS)
