"""How calls end: in whose words, with which reason, and with what else was in the way."""

import pytest

from hybrid_infer.datatypes.route import Attempt, Reason
from hybrid_infer.errors import (
    AllTargetsFailedError,
    APIConnectionError,
    APITimeoutError,
    DeadlineExceededError,
    LocalEngineError,
    QuotaExceededError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.routing.targets import Outcome, Target

REMOTE, OTHER = Target("huggingface", "remote"), Target("tei-box", "remote")
BOTH = {"policy": "remote-only", "remotes": (REMOTE, OTHER)}


def closed(world, target, error):
    world.scripts[target.name] = [error]
    flow = world.flow(policy="remote-only", remotes=(target,), deadline=0.5)
    with pytest.raises(type(error)):
        flow.send(world.perform(flow.send(None)))
    world.log.clear()


def test_a_first_choice_needs_no_words(new_world):
    decision = new_world(huggingface=[]).run()
    assert (decision.reason, decision.detail) == (Reason.PRIMARY, "")
    assert decision.attempts == (Attempt("huggingface", None, None, 0.1),)
    decision = new_world().run(route="local")
    assert (decision.reason, decision.detail) == (Reason.REQUESTED, "")


def test_a_fallback_says_what_kept_the_first_choice(new_world):
    decision = new_world(huggingface=[(0.25, APIConnectionError("refused"))]).run()
    assert (decision.reason, decision.detail) == (Reason.CONNECTION_FAILED, "huggingface: refused")
    assert decision.attempts == (
        Attempt("huggingface", Reason.CONNECTION_FAILED, "APIConnectionError", 0.25),
        Attempt("local", None, None, 0.1),
    )


def test_an_attempt_keeps_the_wait_that_it_was_told(new_world):
    decision = new_world(huggingface=[RateLimitError("slow", retry_after=9.0)]).run()
    assert decision.attempts[0].retry_after == 9.0


def test_all_failures_are_told_in_one_line(new_world):
    world = new_world(
        huggingface=[QuotaExceededError("no credits")], local=[LocalEngineError("boom")]
    )
    with pytest.raises(AllTargetsFailedError) as caught:
        world.run()
    assert str(caught.value) == (
        "no target could serve the call: "
        "huggingface: QuotaExceededError: no credits; local: LocalEngineError: boom"
    )


@pytest.mark.parametrize(
    ("renewable", "words"),
    [(False, "the call did not finish within 5 s"), (True, "the call made no progress for 5 s")],
)
def test_a_call_that_ran_out_of_time_says_which_time(new_world, renewable, words):
    cause = APITimeoutError("slow")
    world = new_world(huggingface=[(6.0, cause)])
    with pytest.raises(DeadlineExceededError) as caught:
        world.run(policy="remote-only", deadline=5.0, renewable=renewable)
    assert str(caught.value) == words
    assert caught.value.__cause__ is cause
    assert [a.error for a in caught.value.attempts] == ["APITimeoutError"]


def test_a_call_that_came_too_late_never_was_an_attempt(new_world):
    world = new_world()
    flow = world.flow(deadline=5.0)
    world.now += 5.0
    with pytest.raises(DeadlineExceededError) as caught:
        next(flow)
    assert caught.value.__cause__ is None
    assert caught.value.attempts == ()


def test_a_slow_failure_that_is_no_timeout_stays_what_it_is(new_world):
    world = new_world(huggingface=[(6.0, RemoteServerError("oops", status=500))])
    with pytest.raises(RemoteServerError, match=r"^oops$"):
        world.run(policy="remote-only", deadline=5.0)


def test_slow_attempts_in_time_are_no_deadline(new_world):
    world = new_world(huggingface=[(2.0, APITimeoutError("slow"))] * 3)
    with pytest.raises(APITimeoutError):
        world.run(policy="remote-only", deadline=60.0)
    assert len(world.tries) == 3


def test_one_failure_names_the_others_that_were_not_asked(new_world):
    world = new_world()
    closed(world, REMOTE, QuotaExceededError("no credits"))
    world.scripts["tei-box"] = [APIConnectionError("refused")]
    with pytest.raises(APIConnectionError, match=r"^refused") as caught:
        world.run(**BOTH)
    assert world.tries == ["tei-box"]
    (note,) = caught.value.__notes__
    assert note.startswith("huggingface was not asked: no credits (not asked again for another")


def test_if_nobody_was_asked_the_first_says_why_and_names_the_others(new_world):
    world = new_world()
    closed(world, REMOTE, QuotaExceededError("no credits"))
    closed(world, OTHER, RateLimitError("slow", retry_after=300.0))
    with pytest.raises(QuotaExceededError) as caught:
        world.run(**BOTH)
    assert world.tries == []
    assert caught.value.attempts == ()
    (note,) = caught.value.__notes__
    assert note.startswith("tei-box was not asked: slow")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Outcome(0.1), "an Outcome carries a result or an error"),
        (None, "a Try must be answered with an Outcome"),
    ],
)
@pytest.mark.parametrize("policy", ["local-only", "remote-only"])
def test_a_driver_that_breaks_the_contract_is_told(new_world, policy, answer, words):
    flow = new_world().flow(policy=policy)
    next(flow)
    with pytest.raises(RuntimeError, match=f"^{words}$"):
        flow.send(answer)
