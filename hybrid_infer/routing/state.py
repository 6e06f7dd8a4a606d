"""What a flow knows while a call is under way, and the steps it can ask for.

Nothing here is changed once it is made, but for `Candidate` and `Call`. The classes are not frozen
all the same: every call makes all of them, and freezing would double what that costs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Attempt, Reason
from hybrid_infer.errors import HybridInferError
from hybrid_infer.routing.budget import HedgeBudget
from hybrid_infer.routing.health import Admission, Health
from hybrid_infer.routing.latency import LatencyWindow
from hybrid_infer.routing.pacing import Pacing
from hybrid_infer.routing.policy import Plan
from hybrid_infer.routing.targets import Readiness, Result, Target
from hybrid_infer.settings import RoutingSettings


@dataclass(slots=True)
class Try:
    """Send the request to `target`.

    Attributes:
        target: where to.
        limit_seconds: time for the whole attempt, so that another target can still serve after
            it; None: the call's own deadline.
        silence_seconds: time until the first sign of life, and between two; None: no such limit.
    """

    target: Target
    limit_seconds: float | None = None
    silence_seconds: float | None = None


@dataclass(slots=True)
class Race:
    """Make the first try; if it has not ended after a while, make the second beside it.

    The first to succeed wins and the other is cancelled. The outcome is the first try's, with the
    second's as its ``hedge`` if that one won.

    Attributes:
        first: the try that is made at once.
        second: the other one.
        after_seconds: when the second one starts.
    """

    first: Try
    second: Try
    after_seconds: float


@dataclass(slots=True)
class Wait:
    """Let `seconds` pass."""

    seconds: float


@dataclass(slots=True)
class Preload:
    """Start loading the cold local copy in the background, and go on at once."""


Step: TypeAlias = Try | Race | Wait | Preload


def _nothing() -> None:
    return


@dataclass(slots=True)
class Decision:
    """A call's happy end: who served it, and why it was them.

    Attributes:
        result: the reply, or a stream's parts.
        target: who served.
        reason: why it was them.
        detail: an addition to `reason`, possibly empty.
        attempts: every try, the one that served included.
        admission: a remote's, settled as a success; a stream may yet break.
        end_stream: tells pacing that the stream has ended; any number of times. A stream that is
            dropped has ended, too.
    """

    result: Result
    target: Target
    reason: Reason
    detail: str
    attempts: tuple[Attempt, ...]
    admission: Admission | None = None
    end_stream: Callable[[], object] = _nothing


@dataclass(slots=True)
class FlowContext:
    """What a flow may look at besides its plan.

    Attributes:
        spec: the model of the call.
        deadline: the call's deadline.
        settings: routing settings.
        health: what is known of the remotes' health.
        pacing: the remotes' schedules.
        remote_latency: how long the remotes' answers take.
        clock: the monotonic clock that deadline and health use.
        randomness: jitter comes from here.
        readiness: asks again how far the local copy is.
        local_seconds: expected time of the local answer once it is warm.
        has_first_answer_limit: whether a remote attempt may be cut after
            ``attempt_timeout_seconds`` (not for a whole chat answer, which may take longer).
        strict_auth: whether a rejected key ends the call.
        is_one_unit: whether the time of its answer can be compared with others'.
        is_stream: whether a success is a stream, which is in flight until it is closed.
        hedges: how many more hedges may be made; None: this call must not be hedged.
        is_closed: whether the client has been closed; then nobody else is asked.
    """

    spec: ModelSpec
    deadline: Deadline
    settings: RoutingSettings
    health: Health
    pacing: Pacing
    remote_latency: LatencyWindow
    clock: Clock
    randomness: random.Random
    readiness: Callable[[], Readiness]
    local_seconds: float
    has_first_answer_limit: bool = True
    strict_auth: bool = False
    is_one_unit: bool = True
    is_stream: bool = False
    hedges: HedgeBudget | None = None
    is_closed: Callable[[], bool] = lambda: False

    def latency_key(self, target: Target) -> str:
        """What the answers of `target` to this call's model are timed under."""
        return f"{target.name} {self.spec.name}"


@dataclass(slots=True)
class Candidate:
    """One target of the plan while a call is under way.

    Attributes:
        target: the target.
        tries: how often it was asked.
        available_at: the monotonic moment from which it may be asked.
        exhausted: whether it is not asked again.
        last_error: what it failed with last, or what keeps it closed.
        last_reason: the word for that.
        wait_is_named: whether `available_at` comes from a wait that the remote named.
        is_polling: whether this call waits for its model to be loaded there.
        retry_is_paid: whether the next try is a retry for which the budget has paid.
    """

    target: Target
    tries: int = 0
    available_at: float = 0.0
    exhausted: bool = False
    last_error: HybridInferError | None = None
    last_reason: Reason | None = None
    wait_is_named: bool = False
    is_polling: bool = False
    retry_is_paid: bool = False


@dataclass(slots=True)
class Call:
    """The state of one flow.

    Attributes:
        plan: what was planned.
        context: what the flow may look at.
        candidates: the plan's targets.
        attempts: what was tried so far.
        preloaded: whether the local copy was set loading.
        local_ready_seconds: when it could start, at the last look; None: it cannot serve in time.
        has_looked: whether the plan's own look at it has been used up.
        local: the candidate among them that is the local copy.
        started_at: the monotonic moment of its beginning.
    """

    plan: Plan
    context: FlowContext
    candidates: list[Candidate]
    attempts: list[Attempt] = field(default_factory=list)
    preloaded: bool = False
    local_ready_seconds: float | None = None
    has_looked: bool = False
    local: Candidate | None = field(init=False)
    started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self.context.clock()
        self.local = next((c for c in self.candidates if c.target.kind == "local"), None)

    def tried(
        self,
        target: Target,
        elapsed_seconds: float,
        error: HybridInferError | None,
        reason: Reason | None,
    ) -> None:
        """Record a try that has just ended."""
        self.attempts.append(
            Attempt(
                target.name,
                reason,
                None if error is None else type(error).__name__,
                elapsed_seconds,
                None if error is None else error.retry_after,
                max(0.0, self.context.clock() - self.started_at - elapsed_seconds),
            )
        )
