"""What a call holds while it lasts, when it lets go of that, and what it notes of its time."""

import gc

import pytest

from hybrid_infer.errors import (
    APIConnectionError,
    EngineClosedError,
    ModelLoadingError,
    RateLimitError,
)
from hybrid_infer.routing.pacing import Pace, Pacing
from hybrid_infer.routing.state import Try, Wait
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target

REMOTE = Target("huggingface", "remote")
ALONE = {"policy": "remote-only"}


class Parts:
    """A stream's parts."""


def one_at_a_time(world):
    world.pacing = Pacing({"huggingface": Pace(max_concurrency=1)})


def is_free(world):
    return world.pacing.of("huggingface").wait_seconds(world.now) == 0


def served(flow, outcome):
    with pytest.raises(StopIteration) as end:
        flow.send(outcome)
    return end.value.value


@pytest.mark.parametrize("end", ["it says so", "it is dropped"])
def test_a_stream_is_in_flight_until_it_ends(new_world, end):
    world = new_world()
    one_at_a_time(world)
    flow = world.flow(**ALONE, is_stream=True)
    assert isinstance(flow.send(None), Try)
    parts = Parts()
    decision = served(flow, Outcome(0.1, result=parts))
    assert decision.result is parts
    assert not is_free(world)
    if end == "it says so":
        decision.end_stream()
        decision.end_stream()
    else:
        del parts, decision
        gc.collect()
    assert is_free(world)


def test_a_whole_answer_has_ended_when_it_is_here(new_world):
    world = new_world()
    one_at_a_time(world)
    decision = world.run(**ALONE)
    assert is_free(world)
    decision.end_stream()
    assert is_free(world)


def test_a_stream_that_never_began_is_in_flight_no_more(new_world):
    world = new_world()
    one_at_a_time(world)
    flow = world.flow(**ALONE, is_stream=True)
    flow.send(None)
    with pytest.raises(APIConnectionError):
        flow.send(Outcome(0.1, error=APIConnectionError("refused")))
    assert is_free(world)


def test_a_stream_may_yet_break_and_knows_whom_to_tell(new_world):
    flow = new_world().flow(**ALONE, is_stream=True)
    flow.send(None)
    assert served(flow, Outcome(0.1, result=Parts())).admission is not None
    assert new_world().run(route="local").admission is None


def test_a_call_whose_client_is_closed_while_it_waits_tells_what_it_tried(new_world):
    world, is_closed = new_world(), False
    flow = world.flow(**ALONE, is_closed=lambda: is_closed)
    flow.send(None)
    wait = flow.send(Outcome(0.1, error=RateLimitError("slow down", retry_after=3.0)))
    assert isinstance(wait, Wait)
    is_closed = True
    with pytest.raises(
        EngineClosedError, match=r"^the client was closed during the call$"
    ) as caught:
        flow.send(None)
    assert [attempt.error for attempt in caught.value.attempts] == ["RateLimitError"]


def test_a_model_that_claims_to_load_in_no_time_keeps_others_away_for_a_poll(new_world):
    world = new_world()
    flow = world.flow(**ALONE, deadline=100.0)
    flow.send(None)
    wait = flow.send(Outcome(0.1, error=ModelLoadingError("loading", retry_after=0.1)))
    assert wait.seconds == pytest.approx(0.5)
    others = world.flow(**ALONE, deadline=100.0).send(None)
    assert (type(others), others.seconds) == (Wait, pytest.approx(0.5))


def test_a_model_that_says_how_long_it_loads_keeps_others_away_for_that(new_world):
    world = new_world()
    flow = world.flow(**ALONE, deadline=100.0)
    flow.send(None)
    assert flow.send(
        Outcome(0.1, error=ModelLoadingError("loading", retry_after=8.0))
    ).seconds == pytest.approx(4.0)
    others = world.flow(**ALONE, deadline=100.0).send(None)
    assert others.seconds == pytest.approx(8.0)


def test_an_attempt_notes_when_it_began(new_world):
    limited = RateLimitError("slow down", retry_after=3.0)
    world = new_world(huggingface=[(0.25, limited), (0.5, APIConnectionError("refused"))])
    decision = world.run(local=Readiness(ReadinessState.COLD, 20.0), deadline=60.0)
    starts = [attempt.started_after_seconds for attempt in decision.attempts]
    assert starts[:2] == pytest.approx([0.0, 3.25])


def test_the_local_copy_is_looked_at_again_once_time_has_passed(new_world):
    """What the plan knows is fresh at the first choice, and no more at the next."""
    world, asked = new_world(huggingface=[APIConnectionError("refused")] * 3), []
    warm = Readiness(ReadinessState.WARM)

    def readiness():
        asked.append(world.now)
        return warm

    flow = world.flow(local=Readiness(ReadinessState.COLD, 500.0), readiness=readiness)
    step = flow.send(None)
    assert (step.target, asked) == (REMOTE, [])
    world.now += 0.1
    step = flow.send(Outcome(0.1, error=APIConnectionError("refused")))
    assert asked
    assert (step.target.name, step.target.kind) == ("local", "local")
