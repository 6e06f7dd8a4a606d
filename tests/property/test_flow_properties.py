"""Whatever targets answer, a flow ends once, in time, and never asks where it must not."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    HybridInferError,
    InvalidRequestError,
    LocalEngineError,
    ModelLoadingError,
    ModelNotAvailableError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
)
from hybrid_infer.routing.flow import run
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.latency import LatencyWindow
from hybrid_infer.routing.pacing import Pacing
from hybrid_infer.routing.policy import RemoteFact, make_plan
from hybrid_infer.routing.state import FlowContext, Preload, Try, Wait
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target
from hybrid_infer.routing.verdicts import Retry, verdict_for
from hybrid_infer.settings import RoutingSettings

SPEC = ModelSpec("embeddings", "small", "org/model", None)
REMOTES = (Target("first", "remote"), Target("second", "remote"))
WAITS = st.none() | st.floats(0, 100)
SERVES = None

answers = st.one_of(
    st.just(SERVES),
    st.builds(lambda w: RateLimitError("429", retry_after=w), WAITS),
    st.builds(lambda w: ModelLoadingError("503", retry_after=w), WAITS),
    st.builds(lambda w: OverloadedError("429", retry_after=w), WAITS),
    st.sampled_from([500, 502, 413]).map(lambda s: RemoteServerError("x", status=s)),
    st.sampled_from(
        [
            QuotaExceededError,
            AuthenticationError,
            ModelNotAvailableError,
            RemoteProtocolError,
            APIConnectionError,
            APITimeoutError,
            LocalEngineError,
            InvalidRequestError,
        ]
    ).map(lambda kind: kind("x")),
)
readiness = st.one_of(
    st.just(Readiness(ReadinessState.WARM)),
    st.builds(lambda s: Readiness(ReadinessState.COLD, s), st.floats(0, 60)),
)


class World:
    """A virtual clock, one client's gates, and the rules that no step may break."""

    def __init__(self):
        self.now = 0.0
        self.health = Health(lambda: self.now, random.Random(7))
        self.pacing = Pacing({})
        self.remote_latency = LatencyWindow()
        self.closed_until = {}
        self.retries = Counter()
        self.successes = Counter()

    def context(self, limit, local, seed):
        return FlowContext(
            spec=SPEC,
            deadline=Deadline(limit, clock=lambda: self.now),
            settings=RoutingSettings(),
            health=self.health,
            pacing=self.pacing,
            remote_latency=self.remote_latency,
            clock=lambda: self.now,
            randomness=random.Random(seed),
            readiness=lambda: local,
            local_seconds=1.0,
        )

    def play(self, flow, script, ends_at):
        """Drive one flow; returns its ending and the slowest try."""
        outcome, last, slowest = None, None, 0.0
        failed = {}
        for _ in range(500):
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                return end.value, last, slowest
            except HybridInferError as error:
                return error, last, slowest
            assert not isinstance(last, InvalidRequestError), "a caller's mistake ends the call"
            outcome = None
            if isinstance(step, Wait):
                assert self.now + step.seconds < ends_at, "slept past the deadline"
                self.now += step.seconds
            elif isinstance(step, Try):
                assert self.now < ends_at, "tried past the deadline"
                name = step.target.name
                self.retries[name] += failed.get(name) is Retry.JITTERED
                last, seconds = script.pop(0) if script else (SERVES, 0.01)
                outcome = self.attempt(step, last, min(seconds, step.limit_seconds or seconds))
                slowest = max(slowest, outcome.elapsed_seconds)
                self.successes[name] += last is SERVES
                failed[name] = None if last is SERVES else verdict_for(last).retry
                # Ten tokens, a tenth earned by each success; the last retry may begin above five.
                tokens = 10 + 0.1 * self.successes[name] - self.retries[name]
                assert tokens > 4, "beyond the budget"
            else:
                assert isinstance(step, Preload)
        raise AssertionError("the flow went on for ever")

    def attempt(self, step, error, seconds):
        name = step.target.name
        assert self.now >= self.closed_until.get(name, 0.0), "asked too early"
        self.now += seconds
        if isinstance(error, RateLimitError) and step.target.kind == "remote":
            until = self.now + (error.retry_after or 0.0)
            self.closed_until[name] = max(self.closed_until.get(name, 0.0), until)
        return Outcome(seconds, result=object() if error is SERVES else None, error=error)


@settings(max_examples=400, deadline=None)
@given(
    calls=st.lists(st.lists(st.tuples(answers, st.floats(0.001, 8)), max_size=30), max_size=6),
    gaps=st.lists(st.floats(0, 200), min_size=6, max_size=6),
    local=readiness,
    policy=st.sampled_from(["remote-first", "local-first", "remote-only", "local-only"]),
    limit=st.floats(0.5, 60),
    seed=st.integers(0, 9),
)
def test_every_call_ends_once_in_time(calls, gaps, local, policy, limit, seed):
    world = World()
    for script, gap in zip(calls, gaps, strict=False):
        facts = [RemoteFact(target) for target in REMOTES]
        plan = make_plan(policy=policy, route=None, remotes=facts, local=local, unsupported=None)
        ends_at = world.now + limit
        flow = run(plan, world.context(limit, local, seed))
        ending, last, slowest = world.play(flow, list(script), ends_at)
        if isinstance(ending, HybridInferError):
            assert last is not SERVES or not ending.attempts
        else:
            assert last is SERVES
            assert ending.attempts[-1].error is None
        assert world.now <= ends_at + slowest
        world.now += gap


@settings(max_examples=50, deadline=None)
@given(
    calls=st.lists(
        st.lists(
            st.sampled_from(
                [SERVES, RemoteServerError("x", status=500), OverloadedError("x", retry_after=0.0)]
            ),
            min_size=3,
            max_size=3,
        ),
        min_size=20,
        max_size=60,
    ),
    seed=st.integers(0, 9),
)
def test_retries_never_cost_more_than_their_budget(calls, seed):
    world = World()
    for script in calls:
        plan = make_plan(
            policy="remote-only",
            route=None,
            remotes=[RemoteFact(REMOTES[0])],
            local=Readiness(ReadinessState.WARM),
            unsupported=None,
        )
        flow = run(plan, world.context(60.0, plan.local, seed))
        world.play(flow, [(answer, 0.01) for answer in script], world.now + 60.0)
        world.health._conditions.clear()  # or breakers would end most retries before the budget
