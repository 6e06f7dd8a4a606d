"""Scripts of outcomes in, steps and endings out: every decision under a virtual clock."""

import contextlib

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    AllTargetsFailedError,
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ContextLengthError,
    DeadlineExceededError,
    InvalidRequestError,
    LocalEngineError,
    ModelLoadingError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
)
from hybrid_infer.routing.budget import HedgeBudget
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.pacing import Pace, Pacing
from hybrid_infer.routing.policy import LOCAL, RemoteFact
from hybrid_infer.routing.state import Preload, Race, Try
from hybrid_infer.routing.targets import Exclusion, Outcome, Readiness, ReadinessState, Target
from hybrid_infer.routing.verdicts import VERDICTS
from hybrid_infer.settings import RoutingSettings

REMOTE = Target("huggingface", "remote")
OTHER = Target("tei-box", "remote")
SPEC = ModelSpec("embeddings", "small", "org/model", "0" * 40)
RESULT = object()

WARM = Readiness(ReadinessState.WARM)


def absent():
    error = ModelNotDownloadedError("not here; run: hybrid-infer pull embeddings/small")
    exclusion = Exclusion(LOCAL, Reason.NOT_DOWNLOADED, "", error)
    return Readiness(ReadinessState.ABSENT, exclusion=exclusion)


def cold(seconds):
    return Readiness(ReadinessState.COLD, seconds)


def test_the_first_choice_serves(new_world):
    world = new_world()
    decision = world.run()
    assert (decision.target, decision.reason, decision.result) == (
        REMOTE,
        Reason.PRIMARY,
        world.result,
    )
    assert [a.error for a in decision.attempts] == [None]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RateLimitError("slow down", retry_after=30.0), Reason.RATE_LIMITED),
        (QuotaExceededError("no credits"), Reason.QUOTA_EXCEEDED),
        (AuthenticationError("bad key"), Reason.AUTHENTICATION),
        (ModelNotAvailableError("gone"), Reason.MODEL_UNAVAILABLE),
        (ModelLoadingError("loading", retry_after=20.0), Reason.MODEL_LOADING),
        (RemoteServerError("oops", status=500), Reason.SERVER_ERROR),
        (RemoteProtocolError("html", status=200), Reason.BAD_RESPONSE),
        (RemoteProtocolError("cut"), Reason.BAD_RESPONSE),
        (APIConnectionError("refused"), Reason.CONNECTION_FAILED),
        (APITimeoutError("slow"), Reason.TIMEOUT),
        (OverloadedError("full"), Reason.OVERLOADED),
        (RemoteServerError("too large", status=413), Reason.TOO_LARGE),
    ],
)
def test_a_warm_local_copy_takes_over_without_a_wait(new_world, error, reason):
    world = new_world(huggingface=[error])
    decision = world.run()
    assert world.tries == ["huggingface", "local"]
    assert world.waited == 0
    assert (decision.target, decision.reason) == (LOCAL, reason)
    assert decision.attempts[0].error == type(error).__name__
    assert "huggingface" in decision.detail


@pytest.mark.parametrize(
    "error", [InvalidRequestError("bad", argument="x"), ContextLengthError("long")]
)
def test_the_callers_mistake_goes_nowhere_else(new_world, error):
    world = new_world(huggingface=[error])
    with pytest.raises(type(error)) as caught:
        world.run()
    assert caught.value is error
    assert world.tries == ["huggingface"]
    assert len(caught.value.attempts) == 1


def test_strict_auth_raises(new_world):
    world = new_world(huggingface=[AuthenticationError("bad key")])
    with pytest.raises(AuthenticationError):
        world.run(strict_auth=True)
    assert world.tries == ["huggingface"]


def test_retry_after_is_waited_when_nothing_else_can_serve(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=4.0)])
    decision = world.run(policy="remote-only")
    assert world.tries == ["huggingface", "huggingface"]
    assert world.waited == pytest.approx(4.0)
    assert decision.reason is Reason.PRIMARY


def test_a_wait_beyond_the_deadline_is_never_slept(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=40.0)])
    with pytest.raises(RateLimitError) as caught:
        world.run(policy="remote-only")
    assert world.waited == 0
    assert caught.value.retry_after == 40.0


def test_a_cold_copy_is_chosen_only_if_ready_before_the_named_wait_ends(new_world):
    short = new_world(huggingface=[RateLimitError("slow", retry_after=2.0)])
    short.run(local=cold(5.0))
    assert short.tries == ["huggingface", "huggingface"]
    assert short.waited == pytest.approx(2.0)
    assert any(isinstance(step, Preload) for step in short.log)

    long = new_world(huggingface=[RateLimitError("slow", retry_after=20.0)])
    assert long.run(local=cold(5.0)).target is LOCAL
    assert long.waited == 0


def test_other_failures_do_not_weigh_a_cold_copy_against_a_backoff(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)])
    assert world.run(local=cold(5.0)).target is LOCAL
    assert world.tries == ["huggingface", "local"]


def test_a_closed_gate_keeps_later_calls_away_until_it_opens(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=10.0)])
    world.run()
    world.log.clear()
    decision = world.run()
    assert world.tries == ["local"]
    assert decision.reason is Reason.RATE_LIMITED
    world.now += 11.0
    world.log.clear()
    assert world.run().target == REMOTE
    assert world.tries == ["huggingface"]


def test_a_closed_gate_raises_its_own_error_when_nothing_else_is_left(new_world):
    world = new_world(huggingface=[QuotaExceededError("no credits")])
    with pytest.raises(QuotaExceededError):
        world.run(policy="remote-only")
    world.log.clear()
    with pytest.raises(QuotaExceededError) as caught:
        world.run(policy="remote-only")
    assert world.tries == []
    assert caught.value.retry_after == pytest.approx(3600, abs=1)


def test_a_gate_is_never_shortened(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=100.0)])
    world.run()
    world.health.close(
        REMOTE,
        SPEC,
        VERDICTS[RateLimitError].gate,
        seconds=1.0,
        closure=Closure(Reason.RATE_LIMITED, RateLimitError("slow")),
    )
    gate = world.health.closed(REMOTE, SPEC)
    assert gate.until - world.now > 90


def test_server_errors_are_retried_once_or_twice_when_alone(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)] * 5)
    with pytest.raises(RemoteServerError) as caught:
        world.run(policy="remote-only")
    assert world.tries == ["huggingface"] * 3
    assert len(caught.value.attempts) == 3


def test_loading_is_polled_inside_the_deadline(new_world):
    world = new_world(huggingface=[ModelLoadingError("loading", retry_after=10.0)] * 3)
    decision = world.run(policy="remote-only")
    assert world.tries == ["huggingface"] * 4
    assert world.waited == pytest.approx(15.0)
    assert decision.target == REMOTE


@pytest.mark.parametrize("named", [0.0, 0.01, 1.0])
def test_a_model_that_claims_to_need_no_time_is_polled_at_a_pace(new_world, named):
    loading = ModelLoadingError("loading", retry_after=named)
    world = new_world(huggingface=[(0.0, loading)] * 2000)
    with pytest.raises(ModelLoadingError):
        world.run(policy="remote-only", deadline=10.0)
    assert len(world.tries) == pytest.approx(20, abs=1)


def test_a_time_that_is_over_after_very_many_polls_is_a_typed_error(new_world):
    loading = ModelLoadingError("loading", retry_after=1.0)
    script = [(0.0, loading)] * 1100 + [RemoteServerError("oops", status=500)]
    world = new_world(huggingface=script)
    with pytest.raises(RemoteServerError):
        world.run(policy="remote-only", deadline=3600.0, most_steps=5_000)
    assert not world.scripts["huggingface"]


def test_many_calls_at_once_share_one_retry_budget(new_world):
    world = new_world(huggingface=[OverloadedError("busy")] * 20)
    flows = [world.flow(policy="remote-only") for _ in range(20)]
    tries = [flow.send(None) for flow in flows]
    waits = []
    for flow, step in zip(flows, tries, strict=True):
        with contextlib.suppress(OverloadedError):
            waits.append(flow.send(world.perform(step)))
    assert len(waits) == 5


def test_a_retry_that_another_target_makes_needless_costs_nothing(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)])
    for _ in range(20):
        world.scripts["huggingface"] = [RemoteServerError("oops", status=500)]
        assert world.run().target.name == "local"
    assert world.health.take_retry(REMOTE)


def test_remotes_are_tried_in_order_before_local(new_world):
    world = new_world(huggingface=[APIConnectionError("refused")])
    decision = world.run(remotes=(REMOTE, OTHER))
    assert world.tries == ["huggingface", "tei-box"]
    assert (decision.target, decision.reason) == (OTHER, Reason.CONNECTION_FAILED)


def test_two_failures_are_one_error_with_both_causes(new_world):
    first = RateLimitError("slow", retry_after=60.0)
    world = new_world(huggingface=[first], local=[LocalEngineError("boom")])
    with pytest.raises(AllTargetsFailedError) as caught:
        world.run()
    assert [type(c) for c in caught.value.causes] == [RateLimitError, LocalEngineError]
    assert caught.value.retry_after == 60.0
    assert caught.value.__cause__ is first
    assert [a.target for a in caught.value.attempts] == ["huggingface", "local"]


def test_one_failure_says_why_the_others_were_left_out(new_world):
    world = new_world(huggingface=[APIConnectionError("refused")])
    with pytest.raises(APIConnectionError) as caught:
        world.run(local=absent())
    assert "hybrid-infer pull embeddings/small" in caught.value.__notes__[0]


def test_a_local_copy_expected_to_be_too_slow_is_the_last_resort(new_world):
    world = new_world(huggingface=[APIConnectionError("refused")])
    decision = world.run(local=cold(60.0), deadline=5.0)
    assert world.tries == ["huggingface", "local"]
    assert decision.target is LOCAL


def test_running_out_of_time_is_a_deadline_error(new_world):
    world = new_world(huggingface=[(6.0, APITimeoutError("slow"))])
    with pytest.raises(DeadlineExceededError) as caught:
        world.run(local=absent(), deadline=5.0)
    assert "5 s" in str(caught.value)
    assert isinstance(caught.value.__cause__, APITimeoutError)


def test_a_remote_attempt_leaves_time_for_local(new_world):
    world = new_world()
    world.run(deadline=10.0, local_seconds=2.0)
    (step,) = world.log
    assert step.limit_seconds == pytest.approx(7.0)


def test_local_first_falls_back_to_the_remote(new_world):
    world = new_world(local=[LocalEngineError("boom")])
    decision = world.run(policy="local-first")
    assert world.tries == ["local", "huggingface"]
    assert decision.reason is Reason.LOCAL_ERROR


def test_local_first_without_a_copy_names_the_reason(new_world):
    world = new_world()
    decision = world.run(policy="local-first", local=absent())
    assert (decision.target, decision.reason) == (REMOTE, Reason.NOT_DOWNLOADED)


def test_what_comes_later_in_the_order_is_no_reason(new_world):
    world = new_world()
    assert world.run(local=absent()).reason is Reason.PRIMARY
    assert world.run(policy="local-first").reason is Reason.PRIMARY


def test_an_excluded_remote_names_the_reason(new_world):
    error = AuthenticationError("no key")
    fact = RemoteFact(REMOTE, Exclusion(REMOTE, Reason.NO_API_KEY, "", error))
    world = new_world()
    decision = world.run(remotes=(), exclusions=[fact])
    assert (decision.target, decision.reason) == (LOCAL, Reason.NO_API_KEY)


def test_a_requested_route_is_not_a_fallback(new_world):
    world = new_world()
    assert world.run(route="local").reason is Reason.REQUESTED
    assert world.tries == ["local"]


def test_preload_at_start_does_not_wait_for_a_failure(new_world):
    world = new_world()
    decision = world.run(local=cold(5.0), settings=RoutingSettings(preload="at_start"))
    assert decision.target == REMOTE
    assert isinstance(world.log[0], Preload)


def test_a_local_copy_that_cannot_be_ready_is_the_reason(new_world):
    decision = new_world().run(policy="local-first", local=cold(60.0), deadline=30.0)
    assert (decision.target, decision.reason) == (REMOTE, Reason.NOT_READY)
    assert "cold" in decision.detail


def test_preload_never_is_obeyed(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=2.0)])
    world.run(local=cold(5.0), settings=RoutingSettings(preload="never"))
    assert not any(isinstance(step, Preload) for step in world.log)


def test_an_open_breaker_sends_nothing_and_names_its_failure(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)] * 50)
    for _ in range(20):
        assert world.run().target is LOCAL
    assert world.tries.count("huggingface") == 5
    decision = world.run()
    assert decision.reason is Reason.SERVER_ERROR
    assert "not asked again" in decision.detail


def test_a_remote_that_is_fully_down_is_asked_little_more_than_once_a_call(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)] * 500)
    for _ in range(100):
        with pytest.raises(RemoteServerError):
            world.run(policy="remote-only", deadline=5.0)
        world.now += 1.0
    assert world.tries.count("huggingface") <= 110


def test_a_probe_brings_a_remote_back(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)] * 5)
    for _ in range(5):
        world.run()
    world.now += 13.0
    assert [world.run().target for _ in range(3)] == [REMOTE] * 3


def test_a_retry_waits_for_the_breaker_that_its_own_call_opened(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)] * 5)
    for _ in range(4):
        world.run()
    world.log.clear()
    assert world.run(policy="remote-only").target == REMOTE
    assert world.tries == ["huggingface"] * 2
    assert world.waited >= 10.0


def test_a_flow_that_is_left_gives_its_lease_back(new_world):
    world = new_world(huggingface=[RemoteServerError("oops", status=500)] * 5)
    for _ in range(5):
        world.run()
    world.now += 13.0
    flow = world.flow()
    assert isinstance(next(flow), Try)
    assert world.health.closed(REMOTE, SPEC).state == "half_open"
    flow.close()
    assert world.health.closed(REMOTE, SPEC) is None
    assert world.pacing.of(REMOTE.name).start(world.now)


def test_being_cut_short_is_not_being_slow(new_world):
    world = new_world(huggingface=[(0.05, APITimeoutError("slow"))] * 20)
    for _ in range(20):
        world.run(deadline=1.2)
    assert world.health.closed(REMOTE, SPEC) is None
    slow = new_world(huggingface=[(1.5, APITimeoutError("slow"))] * 20)
    for _ in range(20):
        slow.run()
    assert slow.tries.count("huggingface") == 5


def test_what_slow_means_is_learned(new_world):
    world = new_world()
    for _ in range(10):
        world.run()
    world.scripts["huggingface"] = [(0.15, APITimeoutError("slow"))] * 20
    for _ in range(20):
        world.run()
    assert world.health.closed(REMOTE, SPEC) is not None


def test_overflow_of_a_paced_remote_is_served_here(new_world):
    world = new_world()
    world.pacing = Pacing({REMOTE.name: Pace(requests_per_minute=60)})
    targets = [world.run().target for _ in range(3)]
    assert targets == [REMOTE, LOCAL, LOCAL]
    decision = world.run()
    assert decision.reason is Reason.RATE_LIMITED
    assert "paced" in decision.detail


def test_a_paced_remote_is_waited_for_when_nothing_else_serves(new_world):
    world = new_world()
    world.pacing = Pacing({REMOTE.name: Pace(requests_per_minute=60)})
    assert [world.run(policy="remote-only").target for _ in range(4)] == [REMOTE] * 4
    assert world.waited == pytest.approx(2.7, abs=0.01)


def test_a_cold_copy_is_not_loaded_for_a_short_paced_wait(new_world):
    world = new_world()
    world.pacing = Pacing({REMOTE.name: Pace(requests_per_minute=60)})
    world.run(local=cold(5.0))
    assert world.run(local=cold(5.0)).target == REMOTE


def test_retries_end_when_their_budget_does(new_world):
    spent = new_world(huggingface=[RemoteServerError("oops", status=500)] * 100)
    tries = []
    for _ in range(10):
        spent.log.clear()
        with pytest.raises(RemoteServerError):
            spent.run(policy="remote-only")
        spent.health._conditions.clear()
        tries.append(len(spent.tries))
    assert tries[0] == 3
    assert tries[-1] == 1


def hedging(world, **options):
    settings = RoutingSettings(hedge=True)
    return world.flow(settings=settings, hedges=world.hedges, **options)


def test_a_hedge_needs_a_measured_remote_a_warm_copy_and_budget(new_world):
    world = new_world()
    world.hedges = HedgeBudget()
    assert isinstance(next(hedging(world)), Try), "nothing is known of the remote"
    for _ in range(30):
        world.remote_latency.record(f"{REMOTE.name} {SPEC.name}", 0.2)
    kinds = [type(next(hedging(world))) for _ in range(40)]
    assert kinds.count(Race) == 2, "one call in twenty"
    world.hedges = HedgeBudget()
    kinds = [type(next(hedging(world, local=cold(1.0)))) for _ in range(40)]
    assert Race not in kinds
    assert type(next(world.flow(hedges=world.hedges))) is Try, "and it is off unless asked for"


def test_a_hedge_that_never_started_costs_nothing(new_world):
    world = new_world()
    world.hedges = HedgeBudget()
    for _ in range(30):
        world.remote_latency.record(f"{REMOTE.name} {SPEC.name}", 0.2)
    while not isinstance(step := next(flow := hedging(world)), Race):
        flow.close()
    assert step.after_seconds == 0.2
    with pytest.raises(StopIteration) as end:
        flow.send(Outcome(0.1, result=RESULT))
    assert end.value.value.target == REMOTE
    assert isinstance(next(hedging(world)), Race)


def test_a_hedge_that_won_is_a_local_answer(new_world):
    world = new_world()
    world.hedges = HedgeBudget()
    for _ in range(30):
        world.remote_latency.record(f"{REMOTE.name} {SPEC.name}", 0.2)
    while not isinstance(next(flow := hedging(world)), Race):
        flow.close()
    with pytest.raises(StopIteration) as end:
        flow.send(Outcome(0.5, hedge=Outcome(0.3, result=RESULT)))
    decision = end.value.value
    assert (decision.target, decision.result, decision.reason) == (LOCAL, RESULT, Reason.TIMEOUT)
    assert isinstance(next(hedging(world)), Try), "it was paid for"
