"""A world for one flow: a virtual clock, scripted targets, and a log of what was done."""

import random

import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.routing.flow import run
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.latency import LatencyWindow
from hybrid_infer.routing.pacing import Pacing
from hybrid_infer.routing.policy import RemoteFact, make_plan
from hybrid_infer.routing.state import FlowContext, Preload, Try, Wait
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target
from hybrid_infer.settings import RoutingSettings

REMOTE = Target("huggingface", "remote")
SPEC = ModelSpec("embeddings", "small", "org/model", "0" * 40)
SERVES = object()
WARM = Readiness(ReadinessState.WARM)


class World:
    """A virtual clock, a script of outcomes per target, and a log of what the flow did."""

    def __init__(self, **scripts):
        self.now = 1000.0
        self.scripts = {name: list(script) for name, script in scripts.items()}
        self.log = []
        self.result = SERVES
        self.health = Health(lambda: self.now, random.Random(7))
        self.pacing = Pacing({})
        self.randomness = random.Random(7)
        self.remote_latency = LatencyWindow()

    def flow(
        self,
        *,
        policy="remote-first",
        local=WARM,
        remotes=(REMOTE,),
        deadline=30.0,
        renewable=False,
        local_seconds=1.0,
        route=None,
        exclusions=(),
        settings=None,
        readiness=None,
        **context,
    ):
        facts = [RemoteFact(target) for target in remotes] + list(exclusions)
        plan = make_plan(policy=policy, route=route, remotes=facts, local=local, unsupported=None)
        return run(
            plan,
            FlowContext(
                spec=SPEC,
                deadline=Deadline(deadline, renewable=renewable, clock=lambda: self.now),
                settings=settings or RoutingSettings(),
                health=self.health,
                pacing=self.pacing,
                remote_latency=self.remote_latency,
                clock=lambda: self.now,
                randomness=self.randomness,
                readiness=readiness or (lambda: local),
                local_seconds=local_seconds,
                **context,
            ),
        )

    def run(self, most_steps=200, **options):
        flow = self.flow(**options)
        outcome = None
        try:
            for _ in range(most_steps):
                step = flow.send(outcome)
                outcome = self.perform(step)
        except StopIteration as end:
            return end.value
        raise AssertionError("the flow did not end")

    def perform(self, step):
        self.log.append(step)
        if isinstance(step, Wait):
            assert step.seconds > 0
            self.now += step.seconds
            return None
        if isinstance(step, Preload):
            return None
        script = self.scripts.get(step.target.name)
        planned = script.pop(0) if script else SERVES
        seconds, error = planned if isinstance(planned, tuple) else (0.1, planned)
        self.now += seconds
        if error is SERVES:
            return Outcome(seconds, result=SERVES)
        return Outcome(seconds, error=error)

    @property
    def tries(self):
        return [step.target.name for step in self.log if isinstance(step, Try)]

    @property
    def waited(self):
        return sum(step.seconds for step in self.log if isinstance(step, Wait))


@pytest.fixture
def new_world():
    """Makes a `World` of scripts: for each target, what it answers, ``(seconds, error)`` or an error."""
    return World
