"""How a broken stream goes on: a second flow, on the plan that is left to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from hybrid_infer.client.calls import PlannedCall, num_answers
from hybrid_infer.client.planning import call_of
from hybrid_infer.client.reporting import asked_of, report_attempts, report_fallback, route_of
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.datatypes.route import Attempt, Route
from hybrid_infer.errors import HybridInferError
from hybrid_infer.events import Answered, StreamEnded
from hybrid_infer.routing.continuation import BrokenStream, continuation_plan
from hybrid_infer.routing.state import Decision
from hybrid_infer.routing.verdicts import verdict_for

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
        served_by, admission = self.decision.target, self.decision.admission
        session, request = self.session, cast("ChatRequest", self.call.request)
        verdict = verdict_for(error)
        if admission is not None:
            session.health.count_failure(admission, verdict, error)
        # The try that had served until now is the one that failed.
        *earlier, served = self.attempts
        failed = replace(
            served,
            reason=verdict.reason,
            error=type(error).__name__,
            retry_after=error.retry_after,
            latency_seconds=self._now() - served.started_after_seconds,
        )
        self.attempts = (*earlier, failed)
        if not verdict.falls_back:
            return "the request itself was refused"
        if self._num_continuations >= MOST_CONTINUATIONS:
            return "it has broken before"
        self._num_continuations += 1
        whole = next((option for option in NEED_WHOLE if option in request.passthrough), None)
        # Of several answers, others than the first, whose text this is, may have begun.
        has_text = bool(text) or num_answers(request) > 1
        broken = BrokenStream(served_by, has_text, has_tools, request.continues, whole)
        local = session.local.readiness(request.spec, may_download=False)
        plan = continuation_plan(self.call.plan, broken, local)
        if isinstance(plan, str):
            return plan
        return call_of(
            session,
            replace(request, answer_so_far=text),
            plan,
            self.call.dispatch.deadline,
            may_download=False,
        )

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

    def route(self, call: PlannedCall, decision: Decision, error: HybridInferError) -> Route:
        """The route of what follows, every attempt of the stream included."""
        broken_target, self.decision = self.decision.target.name, decision
        later = call.started_at - self.call.started_at
        self.attempts = (
            *self.attempts,
            *(
                replace(tried, started_after_seconds=tried.started_after_seconds + later)
                for tried in decision.attempts
            ),
        )
        reason = verdict_for(error).reason
        detail = f"the stream broke: {error.message}"
        followed = replace(decision, reason=reason, detail=detail, attempts=self.attempts)
        report_attempts(self.session, call.request.spec, self.attempts[-2:])
        report_fallback(self.session, call, followed, broken_target)
        return route_of(self.session, call, followed)
