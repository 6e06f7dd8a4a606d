"""Whether a target is asked again within a call, after how long, and what later calls find closed."""

import random

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APITimeoutError,
    DeadlineExceededError,
    HybridInferError,
    ModelLoadingError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.routing.pacing import LOOK_AGAIN_SECONDS, Pace, Pacing
from hybrid_infer.routing.state import Preload, Try, Wait
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target
from hybrid_infer.settings import RoutingSettings

REMOTE, OTHER = Target("huggingface", "remote"), Target("tei-box", "remote")
SPEC = ModelSpec("embeddings", "small", "org/model", "0" * 40)
PATIENT = RoutingSettings(max_attempts_per_target=10)
OOPS = RemoteServerError("oops", status=500)


class Highest(random.Random):
    """Every draw is the largest possible one."""

    def uniform(self, a, b):
        return max(a, b)

    def random(self):
        return 0.0


class Lowest(Highest):
    def uniform(self, a, b):
        return min(a, b)


def waits(world, error, times, **options):
    """How long a lone remote that keeps failing with `error` is left alone before each try."""
    world.scripts["huggingface"] = [(0.0, error)] * times
    world.run(policy="remote-only", deadline=900.0, settings=PATIENT, **options)
    return [round(step.seconds, 3) for step in world.log if isinstance(step, Wait)]


def alone(world, error, settings, remotes=(REMOTE,)):
    """How often each of `remotes`, all failing with `error`, is asked."""
    for target in remotes:
        world.scripts[target.name] = [error] * 20
    with pytest.raises(HybridInferError):
        world.run(policy="remote-only", remotes=remotes, deadline=900.0, settings=settings)
    return [world.tries.count(target.name) for target in remotes]


@pytest.mark.parametrize(("most", "tries"), [(1, 1), (2, 2), (3, 3), (10, 3)])
def test_a_lone_remote_with_server_errors_is_asked_three_times_at_most(new_world, most, tries):
    settings = RoutingSettings(max_attempts_per_target=most)
    assert alone(new_world(), OOPS, settings) == [tries]


def test_one_of_two_is_asked_twice_at_most(new_world):
    assert alone(new_world(), OOPS, PATIENT, (REMOTE, OTHER)) == [2, 2]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_rate_limit_is_waited_for_as_often_as_the_settings_say(new_world, most):
    error = RateLimitError("slow", retry_after=1.0)
    settings = RoutingSettings(max_attempts_per_target=most)
    assert alone(new_world(), error, settings) == [most]


def test_what_is_not_worth_a_second_try_gets_none(new_world):
    assert alone(new_world(), QuotaExceededError("no credits"), PATIENT) == [1]


@pytest.mark.parametrize(
    ("draws", "expected"), [(Highest, [0.5, 1.0]), (Lowest, [])], ids=["most", "least"]
)
def test_a_backoff_is_drawn_from_twice_as_much_each_time(new_world, draws, expected):
    world = new_world()
    world.randomness = draws()
    assert waits(world, OOPS, 2) == expected
    assert world.tries == ["huggingface"] * 3


def test_a_wait_named_by_a_server_error_is_kept_where_it_is_longer(new_world):
    world = new_world()
    world.randomness = Highest()
    slow = RemoteServerError("oops", status=503, retry_after=0.75)
    assert waits(world, slow, 2) == [0.75, 1.0]


@pytest.mark.parametrize(
    ("draws", "expected"),
    [(Highest, [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]), (Lowest, [1.0] * 7)],
    ids=["most", "least"],
)
def test_a_rate_limit_without_a_wait_is_waited_for_up_to_a_minute(new_world, draws, expected):
    world = new_world()
    world.randomness = draws()
    assert waits(world, RateLimitError("slow"), 7) == expected


@pytest.mark.parametrize(
    ("named", "expected"), [(None, 10.0), (10.0, 5.0), (39.0, 19.5), (41.0, 20.0), (3600.0, 20.0)]
)
def test_loading_is_polled_at_half_its_estimate(new_world, named, expected):
    error = ModelLoadingError("loading", retry_after=named)
    assert waits(new_world(), error, 3) == [expected] * 3


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimitError("slow", retry_after=7.0), 7.0),
        (ModelLoadingError("loading", retry_after=30.0), 30.0),
        (ModelLoadingError("loading", retry_after=300.0), 120.0),
        (ModelLoadingError("loading"), 10.0),
        (OverloadedError("full", retry_after=0.1), 1.0),
        (OverloadedError("full", retry_after=60.0), 5.0),
        (OverloadedError("full"), 1.0),
        (QuotaExceededError("no credits", retry_after=1.0), 3600.0),
    ],
)
def test_later_calls_find_closed_what_a_failure_closed(new_world, error, seconds):
    world = new_world(huggingface=[error])
    world.run()
    closure = world.health.closed(REMOTE, SPEC)
    assert closure.until - world.now == pytest.approx(seconds - 0.1)  # the local answer's time
    assert closure.error is error


def test_after_a_rate_limit_a_remote_is_asked_gently(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=10.0)])
    world.run()
    world.now += 10.0
    targets = [world.run().target.name for _ in range(3)]
    assert targets == ["huggingface", "local", "local"]
    assert world.pacing.of("huggingface").wait_seconds(world.now) == pytest.approx(0.7)


def test_after_other_failures_it_is_not(new_world):
    world = new_world(huggingface=[ModelLoadingError("loading", retry_after=10.0)])
    world.run()
    world.now += 10.0
    assert [world.run().target.name for _ in range(3)] == ["huggingface"] * 3


@pytest.mark.parametrize(
    ("error", "seconds", "opens"),
    [
        (APITimeoutError("slow"), 1.0, True),  # as long as a remote usually takes
        (APITimeoutError("slow"), 0.99, False),
        (DeadlineExceededError("slow"), 0.99, False),
        (RemoteServerError("oops", status=500), 0.01, True),
        (RemoteServerError("gone", status=None), 0.01, True),
    ],
)
def test_a_remote_fails_by_being_slow_only_if_it_had_its_usual_time(
    new_world, error, seconds, opens
):
    world = new_world(huggingface=[(seconds, error)] * 5)
    for _ in range(5):
        world.run()
    assert (world.health.closed(REMOTE, SPEC) is not None) == opens


def test_a_gateways_timeout_counts_however_early_it_came(new_world):
    error = APITimeoutError("HTTP 504")
    error.status = 504
    world = new_world(huggingface=[(0.01, error)] * 5)
    for _ in range(5):
        world.run()
    assert world.health.closed(REMOTE, SPEC).state == "open"


def test_the_usual_time_is_the_median(new_world):
    world = new_world()
    for seconds in (0.1, 0.1, 0.1, 0.3, 5.0, 5.0):
        world.remote_latency.record(f"{REMOTE.name} {SPEC.name}", seconds)
    world.scripts["huggingface"] = [(0.31, APITimeoutError("slow"))] * 5
    for _ in range(5):
        world.run()
    assert world.health.closed(REMOTE, SPEC).state == "open"


def test_answers_that_cannot_be_compared_are_not_timed(new_world):
    world = new_world()
    world.run(is_one_unit=False)
    assert world.remote_latency.count(f"{REMOTE.name} {SPEC.name}") == 0
    world.run()
    assert world.remote_latency.count(f"{REMOTE.name} {SPEC.name}") == 1


def test_a_cold_copy_is_set_loading_once_however_often_its_remotes_fail(new_world):
    world = new_world(huggingface=[RateLimitError("slow", retry_after=1.0)] * 2)
    cold = Readiness(ReadinessState.COLD, 20.0)
    world.run(local=cold, settings=PATIENT)
    assert world.tries == ["huggingface"] * 3
    assert sum(isinstance(step, Preload) for step in world.log) == 1


@pytest.mark.parametrize(("renewable", "lease"), [(False, 4.0), (True, 6.0)])
def test_a_probe_has_as_long_as_its_attempt(new_world, renewable, lease):
    world = new_world(huggingface=[OOPS] * 5)
    for _ in range(5):
        world.run()
    world.now += 13.0
    probe = world.flow(deadline=6.0, renewable=renewable, local_seconds=4 / 3)
    next(probe)
    closure = world.health.closed(REMOTE, SPEC)
    assert closure.until - world.now == pytest.approx(lease)


class TakenAtOnce:
    """A pacer whose free slot is gone when it is asked for: another thread was faster."""

    def __init__(self):
        self.taken = False

    def of(self, _name):
        return self

    def wait_seconds(self, _now):
        return LOOK_AGAIN_SECONDS if self.taken else 0.0

    def start(self, _now):
        self.taken = True
        return False


def test_a_slot_that_another_thread_took_gives_the_probe_back(new_world):
    world = new_world(huggingface=[OOPS] * 5)
    for _ in range(5):
        world.run()
    world.now += 13.0
    world.pacing = TakenAtOnce()
    assert next(world.flow(policy="remote-only")) == Wait(pytest.approx(LOOK_AGAIN_SECONDS))
    assert world.health.closed(REMOTE, SPEC) is None


def test_a_slot_is_free_again_after_every_ending(new_world):
    world = new_world(huggingface=[OOPS, RemoteServerError("oops", status=413)])
    world.pacing = Pacing({REMOTE.name: Pace(max_concurrency=1)})
    assert [world.run().target.name for _ in range(3)] == ["local", "local", "huggingface"]
    flow = world.flow()
    assert isinstance(next(flow), Try)
    assert next(world.flow()).target.name == "local", "the one slot is taken"
    with pytest.raises(StopIteration):
        flow.send(Outcome(0.1, result=object()))
    assert next(world.flow()).target == REMOTE
