"""The formula of docs/scaling.md, against its own sources and against simulated queues."""

import heapq
import math
import random
import runpy
from pathlib import Path

import pytest

capacity = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "capacity.py"))
Load, waiting_share = capacity["Load"], capacity["waiting_share"]
latency_seconds, replicas_for = capacity["latency_seconds"], capacity["replicas_for"]


@pytest.mark.parametrize(
    ("busy", "replicas", "share"), [(0.6, 1, 0.6), (1, 2, 1 / 3), (4, 5, 0.5541), (8, 10, 0.4092)]
)
def test_erlangs_formula_gives_what_its_tables_do(busy, replicas, share):
    assert waiting_share(busy, replicas) == pytest.approx(share, abs=1e-4)


def test_one_server_with_exponential_times_is_known_exactly():
    load = Load(6, 0.1, variation=1)
    wait = math.log(0.6 / 0.01) / (10 - 6)  # P(wait > t) = rho exp(-(mu - lambda) t)
    assert latency_seconds(load, 1) == pytest.approx(0.1 + wait)


def test_too_many_requests_wait_for_ever_and_few_do_not_wait():
    assert latency_seconds(Load(10, 0.1), 1) == math.inf
    assert latency_seconds(Load(0.001, 0.1), 4) == 0.1


def simulated_p99(load, replicas, count=200_000):
    """Requests at random, each of the same length, first come first served."""
    times = random.Random(8)
    free, now, taken = [0.0] * replicas, 0.0, []
    for _ in range(count):
        now += times.expovariate(load.rate)
        start = max(now, heapq.heappop(free))
        heapq.heappush(free, start + load.service_seconds)
        taken.append(start + load.service_seconds - now)
    return sorted(taken)[int(count * 0.99)]


@pytest.mark.parametrize("replicas", [1, 2, 4, 16])
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_simulated_queue_is_a_little_faster_than_the_formula(replicas, share):
    load = Load(share * replicas / 0.05, 0.05)
    ratio = simulated_p99(load, replicas) / latency_seconds(load, replicas)
    assert 0.7 < ratio < 1.1


@pytest.mark.parametrize("rate", [10, 100, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("target", [0.05, 0.2])
def test_one_replica_less_would_be_too_few(rate, target):
    load = Load(rate, 0.045)
    replicas = replicas_for(load, target)
    assert latency_seconds(load, replicas) <= target
    fewer = replicas - 1
    assert (
        fewer == 0
        or latency_seconds(load, fewer) > target
        or load.busy / fewer > capacity["MOST_BUSY"]
    )


def test_a_target_below_one_request_is_refused():
    with pytest.raises(ValueError, match="alone"):
        replicas_for(Load(10, 0.3), 0.2)


def test_cost_is_what_the_replicas_take():
    assert capacity["replica_hours"](Load(1000, 0.05), 72) == pytest.approx(20)
