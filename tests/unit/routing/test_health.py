"""Three keys, breakers and gates: what closes, for whom, and what opens it again."""

import random
import threading

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APIConnectionError,
    InvalidRequestError,
    ModelLoadingError,
    QuotaExceededError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.health import MAX_KEYS, Health
from hybrid_infer.routing.targets import Target
from hybrid_infer.routing.verdicts import Scope, verdict_for

FIRST = Target("first", "remote", "a.example")
SECOND = Target("second", "remote", "a.example")
ELSEWHERE = Target("third", "remote", "b.example")
SMALL = ModelSpec("embeddings", "small", "org/small", None)
LARGE = ModelSpec("embeddings", "large", "org/large", None)


@pytest.fixture
def health(clock):
    return Health(clock, random.Random(3))


def failed(health, error, target=FIRST, spec=SMALL):
    admission = health.admit(target, spec, 10.0)
    assert admission is not None
    health.settle(admission, verdict_for(error), error)


def gated(health, error, seconds, target=FIRST, spec=SMALL):
    verdict = verdict_for(error)
    closure = Closure(verdict.reason, error)
    health.close(target, spec, verdict.gate, seconds=seconds, closure=closure)


def broken(health, target=FIRST, spec=SMALL):
    for _ in range(5):
        failed(health, RemoteServerError("boom", status=500), target, spec)


def test_a_refused_connection_closes_the_host_for_everyone_there(health, clock):
    failed(health, APIConnectionError("refused"))
    for target in (FIRST, SECOND):
        for spec in (SMALL, LARGE):
            assert health.closed(target, spec).reason is Reason.CONNECTION_FAILED
            assert health.admit(target, spec, 1.0) is None
    assert health.closed(ELSEWHERE, SMALL) is None
    clock.advance(1.3)
    assert health.closed(SECOND, LARGE) is None


def test_server_errors_close_the_model_there_and_nothing_else(health):
    broken(health)
    closure = health.closed(FIRST, SMALL)
    assert (closure.reason, closure.state) == (Reason.SERVER_ERROR, "open")
    assert closure.error.status == 500
    assert health.closed(FIRST, LARGE) is None
    assert health.closed(SECOND, SMALL) is None


def test_a_status_shows_that_the_host_is_up(health, clock):
    failed(health, APIConnectionError("refused"))
    clock.advance(1.3)
    failed(health, RemoteServerError("boom", status=500))
    assert [health.admit(FIRST, SMALL, 1.0) is None for _ in range(3)] == [False] * 3


def test_a_host_that_was_back_and_refuses_again_is_closed_again(health, clock):
    failed(health, APIConnectionError("refused"))
    clock.advance(1.3)
    failed(health, RemoteServerError("boom", status=500))
    failed(health, APIConnectionError("refused"))
    assert health.closed(FIRST, SMALL).reason is Reason.CONNECTION_FAILED


def test_a_failure_without_a_status_does_not_show_that_the_host_is_up(health, clock):
    failed(health, APIConnectionError("refused"))
    clock.advance(1.3)
    failed(health, InvalidRequestError("bad", argument="x"))
    assert [health.admit(FIRST, SMALL, 1.0) is None for _ in range(2)] == [False, True]


def test_a_refusal_says_nothing_of_the_model(health):
    limited = RateLimitError("slow")
    limited.status = 429
    for error in [RemoteServerError("boom", status=500)] * 4 + [limited]:
        failed(health, error)
    assert health.closed(FIRST, SMALL) is None
    failed(health, RemoteServerError("boom", status=500))
    assert health.closed(FIRST, SMALL).state == "open"


def test_the_callers_mistake_counts_against_nobody(health):
    for _ in range(30):
        failed(health, InvalidRequestError("bad", argument="x"))
    assert health.closed(FIRST, SMALL) is None


def test_a_rate_limit_closes_the_account_and_is_never_shortened(health, clock):
    gated(health, RateLimitError("slow"), 100.0)
    gated(health, RateLimitError("slow"), 1.0, spec=LARGE)
    for spec in (SMALL, LARGE):
        assert health.closed(FIRST, spec).until == clock() + 100.0
    assert health.closed(SECOND, SMALL) is None
    clock.advance(100.0)
    assert health.closed(FIRST, SMALL) is None
    assert health.admit(FIRST, SMALL, 1.0) is not None


def test_waits_are_kept_within_their_bounds(health, clock):
    gated(health, RateLimitError("slow"), 1e9)
    assert health.closed(FIRST, SMALL).until == clock() + 3600.0
    gated(health, ModelLoadingError("loading"), 999.0, target=ELSEWHERE)
    assert health.closed(ELSEWHERE, SMALL).until == clock() + 120.0


def test_success_does_not_open_a_gate_that_closed_meanwhile(health):
    early = health.admit(FIRST, SMALL, 10.0)
    gated(health, RateLimitError("slow"), 30.0)
    health.settle(early)
    assert health.closed(FIRST, SMALL) is not None


def test_after_credits_ran_out_one_call_goes_first(health, clock):
    gated(health, QuotaExceededError("no credits"), 3600.0)
    clock.advance(3600.0)
    assert health.closed(FIRST, SMALL) is None
    probe = health.admit(FIRST, SMALL, 4.0)
    assert probe is not None
    assert health.closed(FIRST, LARGE).until == clock() + 4.0
    assert health.admit(FIRST, LARGE, 4.0) is None
    health.settle(probe)
    assert health.closed(FIRST, LARGE) is None
    assert [health.admit(FIRST, SMALL, 4.0) is None for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("ending", ["released", "lost"])
def test_a_gates_probe_that_says_nothing_lets_the_next_one_go(health, clock, ending):
    gated(health, QuotaExceededError("no credits"), 3600.0)
    clock.advance(3600.0)
    probe = health.admit(FIRST, SMALL, 4.0)
    if ending == "released":
        health.release(probe)
    else:
        clock.advance(4.0)
    assert health.admit(FIRST, LARGE, 4.0) is not None
    assert health.admit(FIRST, SMALL, 4.0) is None, "again one at a time"


def test_a_gates_probe_that_outlives_its_lease_still_opens_it(health, clock):
    gated(health, QuotaExceededError("no credits"), 3600.0)
    clock.advance(3600.0)
    slow = health.admit(FIRST, SMALL, 120.0)
    clock.advance(10.0)
    follower = health.admit(FIRST, LARGE, 120.0)
    assert follower is not None
    clock.advance(2.0)
    health.settle(slow)
    assert health.closed(FIRST, SMALL) is None
    gated(health, QuotaExceededError("no credits again"), 3600.0)
    health.settle(follower)
    assert health.closed(FIRST, SMALL) is not None, "that was another gate's probe"


def test_a_call_that_polls_a_loading_model_passes_its_gate_and_no_other(health):
    gated(health, ModelLoadingError("loading"), 60.0)
    assert health.closed(FIRST, SMALL) is not None
    assert health.closed(FIRST, SMALL, is_polling=True) is None
    assert health.admit(FIRST, SMALL, 1.0) is None
    assert health.admit(FIRST, SMALL, 1.0, is_polling=True) is not None
    gated(health, RateLimitError("slow"), 5.0)
    assert health.admit(FIRST, SMALL, 1.0, is_polling=True) is None


def test_half_open_admits_one_and_a_release_frees_it(health, clock):
    broken(health)
    clock.advance(13.0)
    probe = health.admit(FIRST, SMALL, 5.0)
    assert health.closed(FIRST, SMALL).state == "half_open"
    assert health.admit(FIRST, SMALL, 5.0) is None
    health.release(probe)
    assert health.admit(FIRST, SMALL, 5.0) is not None


def test_a_probe_that_is_lost_closes_again_when_its_own_lease_ends(health, clock):
    broken(health)
    clock.advance(13.0)
    health.admit(FIRST, SMALL, 3.0)
    assert health.closed(FIRST, SMALL).until == clock() + 3.0
    clock.advance(3.0)
    assert health.closed(FIRST, SMALL).state == "open"


def test_a_model_whose_healthy_answers_outlive_every_lease_is_used_again(health, clock):
    broken(health)
    clock.advance(13.0)
    for _ in range(2):
        probe = health.admit(FIRST, SMALL, 120.0)
        assert probe is not None
        clock.advance(11.0)
        assert health.closed(FIRST, SMALL).state == "open"
        clock.advance(1.0)
        health.settle(probe)
    assert health.snapshot() == {}
    assert [health.admit(FIRST, SMALL, 120.0) is None for _ in range(3)] == [False] * 3


def test_a_slow_answer_of_a_host_that_is_back_does_not_keep_others_away(health, clock):
    failed(health, APIConnectionError("refused"))
    clock.advance(1.3)
    slow = health.admit(FIRST, LARGE, 120.0)
    assert health.admit(SECOND, SMALL, 2.0) is None, "whether it connects is not known yet"
    clock.advance(4.0)
    health.settle(health.admit(SECOND, SMALL, 2.0))
    assert [health.admit(SECOND, SMALL, 2.0) is None for _ in range(3)] == [False] * 3
    clock.advance(8.0)
    health.settle(slow)
    assert health.snapshot() == {}


def test_no_lease_is_longer_than_ten_seconds(health, clock):
    gated(health, QuotaExceededError("no credits"), 3600.0)
    clock.advance(3600.0)
    health.admit(FIRST, SMALL, 500.0)
    assert health.closed(FIRST, LARGE).until == clock() + 10.0


def test_a_refusal_by_a_later_key_gives_earlier_leases_back(health, clock):
    failed(health, APIConnectionError("refused"))
    clock.advance(1.3)
    gated(health, ModelLoadingError("loading"), 60.0)
    assert health.admit(FIRST, SMALL, 10.0) is None
    assert health.admit(FIRST, LARGE, 10.0) is not None, "the host's one lease is free again"


def breaks_later(health, admission):
    error = RemoteServerError("gone", status=None)
    health.count_failure(admission, verdict_for(error), error)


def test_a_stream_that_breaks_later_counts_as_well(health):
    for _ in range(5):
        admission = health.admit(FIRST, SMALL, 1.0)
        health.settle(admission)
        breaks_later(health, admission)
    assert health.closed(FIRST, SMALL).state == "open"
    assert health.closed(FIRST, LARGE) is None


def test_a_probe_whose_stream_breaks_opens_the_breaker_again(health, clock):
    broken(health)
    clock.advance(13.0)
    probe = health.admit(FIRST, SMALL, 1.0)
    health.settle(probe)
    assert health.closed(FIRST, SMALL) is None
    breaks_later(health, probe)
    assert health.closed(FIRST, SMALL).state == "open"


def test_a_stream_of_an_older_period_changes_nothing(health, clock):
    old = health.admit(FIRST, SMALL, 1.0)
    health.settle(old)
    broken(health)
    clock.advance(13.0)
    health.settle(health.admit(FIRST, SMALL, 1.0))
    breaks_later(health, old)
    assert health.closed(FIRST, SMALL) is None


def test_a_poll_that_finds_the_model_loaded_lets_everyone_in(health):
    gated(health, ModelLoadingError("loading"), 60.0)
    assert health.admit(FIRST, SMALL, 1.0) is None
    poll = health.admit(FIRST, SMALL, 1.0, is_polling=True)
    health.release(poll)
    assert health.closed(FIRST, SMALL) is not None, "that said nothing"
    health.settle(health.admit(FIRST, SMALL, 1.0, is_polling=True))
    assert health.closed(FIRST, SMALL) is None


def test_a_stream_that_breaks_late_changes_nothing_of_an_open_breaker_or_its_probe(health, clock):
    late = health.admit(FIRST, SMALL, 1.0)
    health.settle(late)
    broken(health)
    until = health.closed(FIRST, SMALL).until
    for _ in range(10):
        breaks_later(health, late)
    assert health.closed(FIRST, SMALL).until == until
    clock.advance(13.0)
    probe = health.admit(FIRST, SMALL, 5.0)
    breaks_later(health, late)
    assert health.closed(FIRST, SMALL).state == "half_open"
    health.settle(probe)
    assert health.admit(FIRST, SMALL, 5.0) is not None


def test_of_a_breaker_and_a_gate_the_longer_is_told(health, clock):
    broken(health)
    gated(health, ModelLoadingError("loading"), 60.0)
    closure = health.closed(FIRST, SMALL)
    assert (closure.reason, closure.until) == (Reason.MODEL_LOADING, clock() + 60.0)
    clock.advance(1.0)
    gated(health, ModelLoadingError("loading"), 2.0, spec=LARGE)
    broken(health, ELSEWHERE)
    gated(health, ModelLoadingError("loading"), 2.0, target=ELSEWHERE)
    assert health.closed(ELSEWHERE, SMALL).reason is Reason.SERVER_ERROR


def test_the_longest_closure_is_the_one_that_is_told(health):
    gated(health, ModelLoadingError("loading"), 60.0)
    gated(health, RateLimitError("slow"), 90.0)
    assert health.closed(FIRST, SMALL).reason is Reason.RATE_LIMITED
    gated(health, ModelLoadingError("loading"), 119.0)
    assert health.closed(FIRST, SMALL).reason is Reason.MODEL_LOADING


def test_snapshot_and_reset(health):
    broken(health)
    gated(health, RateLimitError("slow"), 30.0, target=ELSEWHERE)
    assert {(key[0], key[1]) for key in health.snapshot()} == {
        (Scope.MODEL, "first"),
        (Scope.ACCOUNT, "third"),
    }
    gated(health, ModelLoadingError("loading"), 30.0, target=SECOND)
    health.reset([FIRST])
    assert {key[1] for key in health.snapshot()} == {"second", "third"}
    health.reset()
    assert health.snapshot() == {}


def test_reset_of_a_remote_opens_its_host(health):
    failed(health, APIConnectionError("refused"))
    health.reset([ELSEWHERE])
    assert health.closed(FIRST, SMALL) is not None
    health.reset([FIRST])
    assert health.closed(FIRST, SMALL) is None


def test_retries_are_paid_for_by_successes(health):
    assert [health.take_retry(FIRST) for _ in range(6)] == [True] * 5 + [False]
    assert health.take_retry(ELSEWHERE)
    health.settle(health.admit(FIRST, SMALL, 1.0))
    assert [health.take_retry(FIRST) for _ in range(2)] == [True, False]
    health.give_back_retry(FIRST)
    assert [health.take_retry(FIRST) for _ in range(2)] == [True, False]
    health.reset([ELSEWHERE])
    assert not health.take_retry(FIRST)
    health.reset([FIRST])
    assert health.take_retry(FIRST)


def test_keys_are_bounded_and_closed_ones_are_kept(health):
    gated(health, RateLimitError("slow"), 3000.0)
    for number in range(MAX_KEYS + 50):
        spec = ModelSpec("embeddings", None, f"org/model-{number}", None)
        health.release(health.admit(ELSEWHERE, spec, 1.0))
    assert len(health._conditions) <= MAX_KEYS
    assert health.closed(FIRST, SMALL) is not None


def test_threads_get_one_lease_between_them(health, clock):
    broken(health)
    clock.advance(13.0)
    start, granted = threading.Barrier(16), []

    def ask():
        start.wait()
        granted.append(health.admit(FIRST, SMALL, 5.0))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admission is not None for admission in granted) == 1
