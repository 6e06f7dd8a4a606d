"""What both clients share: configuration, backends, health, and how a call becomes a flow."""

from __future__ import annotations

import os
import random
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hybrid_infer.cache import ResponseCache
from hybrid_infer.client import checks, requests
from hybrid_infer.client.backends import Backends
from hybrid_infer.client.canary import Canary
from hybrid_infer.client.options import (
    ClientOptions,
    as_config_error,
    check_types,
    checked_device,
    checked_dtype,
    checked_policy,
)
from hybrid_infer.client.reporting import suggest_wider
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import RemoteSpec, Task
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    ConfigError,
    ContextLengthError,
    EngineClosedError,
    InvalidRequestError,
)
from hybrid_infer.events import guarded
from hybrid_infer.routing.budget import HedgeBudget
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.latency import LatencyWindow
from hybrid_infer.routing.pacing import Pace, Pacing
from hybrid_infer.routing.targets import Target

if TYPE_CHECKING:
    from hybrid_infer.local.backend import LocalBackend


class Session:
    """The state of one client.

    Args:
        options: the constructor's arguments.

    Raises:
        ConfigError: any of them, models.yaml, or an environment variable is wrong.
    """

    def __init__(self, options: ClientOptions) -> None:
        from hybrid_infer.registry import load_registry, read_environment, validated_settings

        check_types(options)
        environment = read_environment(os.environ)
        self.registry = load_registry(
            options.models, profile=options.profile, base_url=options.base_url
        )
        self.policy = checked_policy(options.policy, environment.policy)
        given = options.settings
        self.settings = self.registry.settings if given is None else validated_settings(given)
        asked_device = environment.device if options.device == "auto" else None
        self.device = checked_device(asked_device or options.device)
        self.dtype = checked_dtype(options.dtype)
        self.deadline_seconds = self._checked_deadline(options.deadline)
        self.cache = None if options.cache is None else ResponseCache(options.cache)
        # The key lives on in the remotes' own wrapped ones, and nowhere else.
        self.options = replace(options, api_key=None)
        self.clock = time.monotonic
        self.randomness = random.Random()  # noqa: S311 - jitter, not secrets
        self.health = Health(self.clock, self.randomness)
        self.pacing = Pacing(
            {r.name: Pace(r.requests_per_minute, r.max_concurrency) for r in self.remotes}
        )
        self.latency, self.remote_latency = LatencyWindow(), LatencyWindow()
        self.hedges = HedgeBudget()
        self.on_event, self.is_observed = guarded(options.on_event), options.on_event is not None
        self.told_closed: dict[tuple[str, str], float] = {}  # which closures observers know of
        self.warned: set[tuple[str, Reason]] = set()
        self.backends = self._new_backends(options.api_key)
        self.canary = Canary(self.remotes, self.settings.routing, clock=self.clock)
        # Streams hold their session, so that a lost client does not cut an answer off.
        weakref.finalize(self, self.backends.close)
        self.targets = {
            spec.name: Target(spec.name, "remote", urlsplit(spec.base_url).netloc)
            for spec in self.remotes
        }
        self._check_consistency()

    def _new_backends(self, api_key: str | None) -> Backends:
        # No reference to the session itself, whose end is what closes them.
        pacing, clock = self.pacing, self.clock
        return Backends(
            self.remotes,
            api_key,
            settings=self.settings,
            device=self.device,
            dtype=self.dtype,
            allow_download=self.options.allow_download,
            on_event=self.on_event,
            on_limits=lambda name, state: pacing.of(name).learn(state, clock()),
        )

    @property
    def remotes(self) -> tuple[RemoteSpec, ...]:
        """The configured remotes in order."""
        return self.registry.remotes

    def _checked_deadline(self, deadline: float | None) -> float | None:
        try:
            return checks.checked_deadline(deadline)
        except InvalidRequestError as error:
            raise as_config_error(error) from None

    def _check_consistency(self) -> None:
        if self.policy == "remote-only" and not self.remotes:
            raise ConfigError(
                "policy='remote-only' needs a remote; profile 'tiny' has none without base_url="
            )
        if self.registry.profile == "tiny":
            from hybrid_infer.snapshots.tiny import warn_once

            warn_once(asked_in_code=self.options.profile is not None)

    def embed_request(self, texts: Any, model: Any, **arguments: Any) -> EmbedRequest:
        """Validate an ``embed`` call; see `requests.embed_request`."""
        spec = self.registry.resolve("embeddings", model)
        return requests.embed_request(spec, texts, known=self.local.completed(spec), **arguments)

    def chat_request(self, messages: Any, model: Any, **arguments: Any) -> ChatRequest:
        """Validate a ``chat_completion`` call; see `requests.chat_request`."""
        spec = self.registry.resolve("chat", model)
        try:
            return requests.chat_request(spec, messages, self.settings, **arguments)
        except ContextLengthError as error:
            suggest_wider(error, spec, self.registry.models)
            raise

    def limit(self, task: Task, deadline: Any) -> Deadline:
        """The clock of a call, started before anything else is done for it.

        Raises:
            InvalidRequestError: `deadline` is not a number of seconds above 0 and up to a week.
        """
        seconds = checks.checked_deadline(deadline)
        seconds = self.deadline_seconds if seconds is None else seconds
        if seconds is not None:
            return Deadline(seconds, clock=self.clock)
        routing = self.settings.routing
        is_chat = task == "chat"
        patience = routing.chat_timeout_seconds if is_chat else routing.embed_timeout_seconds
        return Deadline(patience, renewable=True, clock=self.clock)

    @property
    def local(self) -> LocalBackend:
        """The local backend."""
        return self.backends.local

    def check_open(self) -> None:
        """Refuse work once the client is closed.

        Raises:
            EngineClosedError: it is.
        """
        if self.backends.is_closed:
            raise EngineClosedError("the client is closed")

    def __repr__(self) -> str:
        names = ", ".join(remote.name for remote in self.remotes) or "none"
        profile = f", profile={self.registry.profile!r}" if self.registry.profile else ""
        return f"policy={self.policy!r}, remotes={names}{profile}"


def passthrough_of(
    tools: Any, tool_choice: Any, response_format: Any, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that only a remote, or a local copy that says so, can honour."""
    named = {"tools": tools, "tool_choice": tool_choice, "response_format": response_format}
    return {key: value for key, value in {**named, **extra}.items() if value is not None}
