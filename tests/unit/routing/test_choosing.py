"""Which target is next, how long before it, and how much time it gets."""

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APIConnectionError,
    LocalEngineError,
    QuotaExceededError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.routing.state import Preload, Try, Wait
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target

REMOTE, OTHER = Target("huggingface", "remote"), Target("tei-box", "remote")
SPEC = ModelSpec("embeddings", "small", "org/model", "0" * 40)
OOPS = RemoteServerError("oops", status=500)


def cold(seconds):
    return Readiness(ReadinessState.COLD, seconds)


def gated(world, target, error):
    """Let one call to `target` alone meet `error`, which closes it."""
    world.scripts[target.name] = [error]
    flow = world.flow(policy="remote-only", remotes=(target,), deadline=0.5)
    with pytest.raises(type(error)):
        flow.send(world.perform(flow.send(None)))
    world.log.clear()


def preloads(world):
    return sum(isinstance(step, Preload) for step in world.log)


@pytest.mark.parametrize("policy", ["remote-first", "local-first"])
def test_a_closed_remote_is_passed_over_wherever_it_stands(new_world, policy):
    world = new_world(local=[LocalEngineError("boom")])
    gated(world, OTHER, RateLimitError("slow", retry_after=300.0))
    world.scripts["huggingface"] = [APIConnectionError("refused")]
    world.scripts["local"] = [LocalEngineError("boom")]
    with pytest.raises(Exception, match="boom") as caught:
        world.run(policy=policy, remotes=(REMOTE, OTHER))
    assert sorted(world.tries) == ["huggingface", "local"]
    assert {type(e) for e in caught.value.causes} == {APIConnectionError, LocalEngineError}


def test_a_remote_after_one_that_is_closed_for_too_long_is_asked(new_world):
    world = new_world()
    gated(world, REMOTE, RateLimitError("slow", retry_after=300.0))
    assert world.run(policy="remote-only", remotes=(REMOTE, OTHER)).target == OTHER
    assert world.waited == 0


def test_a_remote_after_a_local_copy_that_is_too_slow_is_asked(new_world):
    world = new_world()
    assert world.run(policy="local-first", local=cold(60.0), deadline=5.0).target == REMOTE
    assert world.tries == ["huggingface"]


def test_a_wait_that_ends_with_the_deadline_is_not_slept(new_world):
    world = new_world(huggingface=[(0.0, RateLimitError("slow", retry_after=30.0))])
    with pytest.raises(RateLimitError):
        world.run(policy="remote-only", deadline=30.0)
    assert world.waited == 0


def test_a_fresh_target_comes_before_a_second_try(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=0.0)])
    assert world.run(policy="remote-only", remotes=(REMOTE, OTHER)).target == OTHER
    assert world.tries == ["huggingface", "tei-box"]


def test_who_prefers_local_does_not_wait_for_a_remote_while_it_loads(new_world):
    world = new_world()
    gated(world, REMOTE, RateLimitError("slow", retry_after=2.0))
    assert world.run(policy="local-first", local=cold(5.0)).target is LOCAL
    assert world.waited == 0


def test_what_is_closed_says_why_and_for_how_long(new_world):
    world = new_world()
    error = QuotaExceededError("no credits")
    error.status = 402
    gated(world, REMOTE, error)
    with pytest.raises(
        QuotaExceededError, match=r"not asked again for another 3600\.0 s"
    ) as caught:
        world.run(policy="remote-only")
    assert caught.value.status == 402
    assert caught.value.retry_after == pytest.approx(3600.0)
    assert world.tries == []


@pytest.mark.parametrize(("limit", "looks_after"), [(20.0, 1.0), (0.4, 0.4)])
def test_a_call_soon_looks_again_at_a_probe_under_way(new_world, limit, looks_after):
    world = new_world(huggingface=[OOPS] * 5)
    for _ in range(5):
        world.run()
    world.now += 13.0
    probing = world.flow(deadline=limit, policy="remote-only")
    assert isinstance(next(probing), Try)
    waiting = world.flow(policy="remote-only")
    step = next(waiting)
    assert isinstance(step, Wait)
    assert step.seconds == pytest.approx(looks_after)
    with pytest.raises(StopIteration):
        probing.send(Outcome(0.1, result=object()))
    world.now += step.seconds
    assert waiting.send(None).target == REMOTE


@pytest.mark.parametrize(
    ("local", "local_seconds", "deadline", "limit"),
    [
        (cold(0.0), 2.0, 10.0, 7.0),  # what local needs, and half as much again, is kept back
        (cold(1.0), 2.0, 10.0, 6.0),  # and the time to load it
        (cold(0.0), 4.0, 10.0, 5.0),  # but never more than half
        (cold(4.0), 3.0, 6.0, 6.0),  # nothing for a copy that cannot serve in time
        (cold(4.0), 2.0, 6.0, 6.0),  # nor for one that would be ready at the very end
    ],
)
def test_a_remote_attempt_leaves_time_for_what_can_use_it(
    new_world, local, local_seconds, deadline, limit
):
    world = new_world()
    step = next(world.flow(local=local, local_seconds=local_seconds, deadline=deadline))
    assert step.limit_seconds == pytest.approx(limit)


def test_without_a_local_copy_in_the_plan_a_remote_has_all_the_time(new_world):
    step = next(new_world().flow(policy="remote-only", deadline=10.0))
    assert (step.limit_seconds, step.silence_seconds) == (10.0, 10.0)


def test_silence_ends_an_attempt_unless_a_whole_answer_may_take_longer(new_world):
    world = new_world()
    step = next(world.flow(policy="remote-only", deadline=60.0))
    assert (step.limit_seconds, step.silence_seconds) == (60.0, 20.0)
    step = next(world.flow(policy="remote-only", deadline=60.0, has_first_answer_limit=False))
    assert (step.limit_seconds, step.silence_seconds) == (60.0, 60.0)


def test_under_a_renewable_deadline_only_silence_ends_an_attempt(new_world):
    step = next(new_world().flow(policy="remote-only", deadline=60.0, renewable=True))
    assert (step.limit_seconds, step.silence_seconds) == (None, 20.0)


def test_the_local_copy_has_the_whole_deadline(new_world):
    assert next(new_world().flow(policy="local-first")) == Try(LOCAL, None, None)


def test_a_failure_sets_a_cold_copy_loading_once(new_world):
    world = new_world(**{"huggingface": [OOPS], "tei-box": [OOPS]})
    world.run(local=cold(5.0), remotes=(REMOTE, OTHER))
    assert world.tries == ["huggingface", "tei-box", "local"]
    assert preloads(world) == 1


@pytest.mark.parametrize(
    ("fails", "options"),
    [
        (False, {"local": cold(5.0)}),  # nothing has failed
        (True, {"remotes": (REMOTE, OTHER)}),  # it is warm
        (True, {"local": cold(5.0)}),  # its own try loads it
        (True, {"local": cold(5.0), "policy": "remote-only"}),  # it may not serve
    ],
)
def test_nothing_else_does(new_world, fails, options):
    world = new_world(huggingface=[OOPS] if fails else [])
    world.run(**options)
    assert preloads(world) == 0


def test_a_closed_remote_is_reason_enough_to_load(new_world):
    world = new_world()
    gated(world, REMOTE, RateLimitError("slow", retry_after=2.0))
    assert world.run(local=cold(5.0)).target == REMOTE
    assert preloads(world) == 1
    assert world.waited == pytest.approx(2.0)


def test_the_reason_is_the_closed_gates(new_world):
    world = new_world()
    gated(world, REMOTE, RateLimitError("slow", retry_after=300.0))
    decision = world.run()
    assert (decision.target, decision.reason) == (LOCAL, Reason.RATE_LIMITED)
    assert decision.detail.startswith("huggingface: slow (not asked again for another 300.0 s)")
