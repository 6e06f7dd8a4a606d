"""When a remote gets company, when the hedge is paid for, and what is learned from a race."""

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import LocalEngineError, RemoteServerError
from hybrid_infer.routing.budget import HedgeBudget
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.state import Race, Try
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target
from hybrid_infer.settings import RoutingSettings

REMOTE = Target("huggingface", "remote")
SPEC = ModelSpec("embeddings", "small", "org/model", "0" * 40)
KEY = f"{REMOTE.name} {SPEC.name}"
OOPS = RemoteServerError("oops", status=500)


def rich():
    """A budget for three hedges."""
    budget = HedgeBudget()
    for _ in range(3):
        budget.give_back()
    return budget


@pytest.fixture
def world(new_world):
    """A remote whose answers took 0.01 … 0.60 s, and a budget."""
    made = new_world()
    for number in range(1, 61):
        made.remote_latency.record(KEY, number / 100)
    made.hedges = rich()
    return made


def first_step(world, **options):
    options = {"settings": RoutingSettings(hedge=True), "hedges": world.hedges} | options
    flow = world.flow(**options)
    return flow, next(flow)


def test_a_race_starts_the_local_copy_after_the_95th_percentile(world):
    _, step = first_step(world)
    assert step == Race(step.first, Try(LOCAL), 0.58)
    assert step.first.target == REMOTE
    assert step.first.limit_seconds is not None


@pytest.mark.parametrize(
    "options",
    [
        {"settings": RoutingSettings(hedge=False)},
        {"hedges": None},
        {"policy": "remote-only"},
        {"local": Readiness(ReadinessState.COLD, 0.1)},
        {"local": Readiness(ReadinessState.LOADING, 0.1)},
    ],
)
def test_without_leave_or_a_warm_copy_there_is_no_race_and_nothing_is_spent(world, options):
    for _ in range(5):
        assert isinstance(first_step(world, **options)[1], Try)
    assert isinstance(first_step(world)[1], Race)


def test_a_copy_that_has_failed_is_no_company(world):
    flow, step = first_step(world, policy="local-first")
    assert step.target is LOCAL
    assert isinstance(flow.send(Outcome(0.1, error=LocalEngineError("boom"))), Try)


@pytest.mark.parametrize(("measurements", "kind"), [(19, Try), (20, Race)])
def test_twenty_measurements_are_needed(new_world, measurements, kind):
    world = new_world()
    world.hedges = rich()
    for _ in range(measurements):
        world.remote_latency.record(KEY, 0.2)
    assert type(first_step(world)[1]) is kind


@pytest.mark.parametrize(("elapsed", "is_free"), [(0.57, True), (0.58, False)])
def test_only_a_hedge_that_never_started_is_free(world, elapsed, is_free):
    world.hedges = HedgeBudget()
    world.hedges.give_back()
    flow, step = first_step(world)
    assert isinstance(step, Race)
    with pytest.raises(StopIteration):
        flow.send(Outcome(elapsed, result=object()))
    assert isinstance(first_step(world)[1], Race) == is_free


def test_a_lost_race_is_a_timeout_that_counts_against_nobody(world):
    flow, _ = first_step(world)
    won = object()
    with pytest.raises(StopIteration) as end:
        flow.send(Outcome(0.7, hedge=Outcome(0.1, result=won)))
    decision = end.value.value
    assert (decision.target, decision.result) == (LOCAL, won)
    assert (decision.reason, decision.detail) == (
        Reason.TIMEOUT,
        "huggingface: slower than the local copy",
    )
    assert [(a.target, a.latency_seconds) for a in decision.attempts] == [("local", 0.1)]
    assert world.remote_latency.count(KEY) == 60


def test_a_remote_that_failed_during_the_race_has_failed(world):
    for _ in range(5):
        world.hedges = rich()
        flow, _ = first_step(world)
        with pytest.raises(StopIteration) as end:
            flow.send(Outcome(0.7, error=OOPS, hedge=Outcome(0.1, result=object())))
    decision = end.value.value
    assert (decision.target, decision.reason) == (LOCAL, Reason.SERVER_ERROR)
    assert [a.target for a in decision.attempts] == ["huggingface", "local"]
    assert world.health.closed(REMOTE, SPEC).state == "open"


def test_a_lost_race_gives_a_probe_s_lease_back(world):
    for _ in range(5):
        flow, _ = first_step(world, hedges=None)
        with pytest.raises(StopIteration):
            flow.send(Outcome(0.1, error=OOPS)), flow.send(Outcome(0.1, result=object()))
    world.now += 13.0
    flow, _ = first_step(world)
    assert world.health.closed(REMOTE, SPEC).state == "half_open"
    with pytest.raises(StopIteration):
        flow.send(Outcome(0.7, hedge=Outcome(0.1, result=object())))
    assert world.health.closed(REMOTE, SPEC) is None


def test_two_failures_of_a_race_leave_the_local_copy_its_turn(world):
    flow, _ = first_step(world)
    assert flow.send(Outcome(0.7, error=OOPS)) == Try(LOCAL)


def test_a_call_that_could_have_been_hedged_and_was_not_ends_as_any_other(world):
    world.hedges = HedgeBudget()
    flow, step = first_step(world)
    assert isinstance(step, Try)
    with pytest.raises(StopIteration) as end:
        flow.send(Outcome(0.01, result=object()))
    assert end.value.value.reason is Reason.PRIMARY
