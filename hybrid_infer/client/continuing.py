"""How a broken stream goes on: a second flow, on the plan that is left to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from hybrid_infer.client.calls import PlannedCall, num_answers
from hybrid_infer.client.planning import call_of
from hybrid_infer.client.reporting import asked_of, report_attempts, report_fallback, route_of
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.datatypes.route import Attempt, Route
from hybrid_infer.errors import HybridInferError, StreamInterruptedError
from hybrid_infer.events import Answered, StreamEnded
from hybrid_infer.routing.continuation import BrokenStream, continuation_plan
from hybrid_infer.routing.policy import Plan
from hybrid_infer.routing.state import Decision
from hybrid_infer.routing.verdicts import Verdict, verdict_for

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

MOST_CONTINUATIONS = 2  # one start over, and one continuation
NEED_WHOLE = ("n", "response_format", "logprobs")  # two halves do not make what these ask for


@dataclass(slots=True)
class Continuing:
    """One stream's way on.

    Attributes:
        session: the client's.
        call: the call that opened the stream.
        decision: who serves the stream now.
        attempts: what was tried so far.
    """

    session: Session
    call: PlannedCall
    decision: Decision
    attempts: tuple[Attempt, ...]
    _num_continuations: int = field(default=0, init=False)

    def next_call(
        self, error: HybridInferError, text: str, *, has_tools: bool
    ) -> PlannedCall | str:
        """The call that goes on behind `text`, or why there is none.

        Args:
            error: what broke the stream.
            text: what is out of its text.
            has_tools: whether any part of a tool call is out.
        """
        self.end()
        plan = self._plan_behind(text, self._count_break(error), has_tools=has_tools)
        if isinstance(plan, str):
            self._report(self.attempts[-1:])
            return plan
        return call_of(
            self.session,
            replace(cast("ChatRequest", self.call.request), answer_so_far=text),
            plan,
            self.call.dispatch.deadline,
            may_download=False,
        )

    def _count_break(self, error: HybridInferError) -> Verdict:
        """The try that had served until now is one that has failed."""
        verdict = verdict_for(error)
        if self.decision.admission is not None:
            self.session.health.count_failure(self.decision.admission, verdict, error)
        *earlier, served = self.attempts
        failed = replace(
            served,
            reason=verdict.reason,
            error=type(error).__name__,
            retry_after=error.retry_after,
            latency_seconds=self._now() - served.started_after_seconds,
        )
        self.attempts = (*earlier, failed)
        return verdict

    def _plan_behind(self, text: str, verdict: Verdict, *, has_tools: bool) -> Plan | str:
        if not verdict.falls_back:
            return "the request itself was refused"
        if self._num_continuations >= MOST_CONTINUATIONS:
            return "it has broken before"
        self._num_continuations += 1
        request = cast("ChatRequest", self.call.request)
        whole = next((option for option in NEED_WHOLE if option in request.passthrough), None)
        # Of several answers, others than the first, whose text this is, may have begun.
        has_text = bool(text) or num_answers(request) > 1
        broken = BrokenStream(self.decision.target, has_text, has_tools, request.continues, whole)
        local = self.session.local.readiness(request.spec, may_download=False)
        return continuation_plan(self.call.plan, broken, local)

    @property
    def num_answers(self) -> int:
        """How many answers the stream has."""
        return num_answers(cast("ChatRequest", self.call.request))

    def _now(self) -> float:
        """Seconds since the call began."""
        return self.session.clock() - self.call.started_at

    def end(self) -> None:
        """The present stream has ended; any number of times."""
        self.decision.end_stream()

    def report_end(
        self, route: Route, answered: Answered, error: str | None, *, is_whole: bool
    ) -> None:
        """Tell the observer that the stream has ended."""
        if self.session.is_observed:
            asked = asked_of(self.call.request)
            seconds = self._now()
            self.session.on_event(
                StreamEnded(asked.model, route, asked, answered, error, is_whole, seconds)
            )

    def take_over(self, call: PlannedCall, decision: Decision, error: HybridInferError) -> Route:
        """Another target serves the stream from here on; its route, every attempt included."""
        broken_target, self.decision = self.decision.target.name, decision
        self._follow(call, decision.attempts)
        reason, detail = verdict_for(error).reason, message_of_break(error)
        followed = replace(decision, reason=reason, detail=detail, attempts=self.attempts)
        report_fallback(self.session, call, followed, broken_target)
        return route_of(self.session, call, followed)

    def fail(self, call: PlannedCall, failure: HybridInferError) -> None:
        """Nobody could go on."""
        self._follow(call, failure.attempts)

    def _follow(self, call: PlannedCall, attempts: tuple[Attempt, ...]) -> None:
        """Add what was tried behind a break; the observer is told of that, and of what broke."""
        later = call.started_at - self.call.started_at
        shifted = (
            replace(tried, started_after_seconds=tried.started_after_seconds + later)
            for tried in attempts
        )
        self.attempts = (*self.attempts, *shifted)
        self._report(self.attempts[-1 - len(attempts) :])

    def _report(self, attempts: tuple[Attempt, ...]) -> None:
        report_attempts(self.session, self.call.request.spec, attempts)


def message_of_break(error: HybridInferError) -> str:
    """What is said of a stream that an error broke."""
    if isinstance(error, StreamInterruptedError):
        return error.message
    return f"the stream broke after its first chunk: {error.message}"
