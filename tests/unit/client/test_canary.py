"""When a comparison is due, and what has passed one lately."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_infer.client.canary import Canary
from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
from hybrid_infer.settings import RoutingSettings

FAR = RemoteSpec("far", "tei", "https://embeddings.example.org")
NEAR = RemoteSpec("near", "tei", "http://127.0.0.1:8080")
PINNED = ModelSpec("embeddings", "small", "org/small", "a" * 40)
OTHER = ModelSpec("embeddings", "other", "org/other", "b" * 40)
UNPINNED = ModelSpec("embeddings", None, "org/any", None)


def yes():
    return True


def no():
    return False


@pytest.fixture
def canary(clock):
    return Canary([FAR, NEAR], RoutingSettings(canary_seconds=100.0), clock=clock)


def test_one_is_due_once_a_period_for_each_model(canary, clock):
    assert canary.take("far", PINNED, yes)
    assert not canary.take("far", PINNED, yes)
    assert canary.take("far", OTHER, yes)
    clock.advance(99.9)
    assert not canary.take("far", PINNED, yes)
    clock.advance(0.1)
    assert canary.take("far", PINNED, yes)


def test_what_cannot_be_judged_stays_due(canary):
    assert not canary.take("far", PINNED, no)
    assert canary.take("far", PINNED, yes)


def test_what_may_rightly_change_is_not_judged(canary):
    assert not canary.take("far", UNPINNED, yes)


@pytest.mark.parametrize(
    ("mode", "watched"), [("elsewhere", {"far"}), ("always", {"far", "near"}), ("never", set())]
)
def test_whom_each_mode_watches(clock, mode, watched):
    canary = Canary([FAR, NEAR], RoutingSettings(canary=mode), clock=clock)
    names = ("far", "near", "unknown")
    assert {name for name in names if canary.take(name, PINNED, yes)} == watched


def test_trust_ends_with_the_period(canary, clock):
    assert not canary.trusts("far", PINNED)
    canary.trust("far", PINNED)
    assert canary.trusts("far", PINNED)
    assert not canary.trusts("near", PINNED)
    assert not canary.trusts("far", OTHER)
    clock.advance(100)
    assert not canary.trusts("far", PINNED)


def test_distrust_makes_the_next_one_due_at_once(canary):
    assert canary.take("far", PINNED, yes)
    canary.trust("far", PINNED)
    canary.distrust("far", PINNED)
    assert not canary.trusts("far", PINNED)
    assert canary.take("far", PINNED, yes)


def test_of_many_threads_one_takes_it(canary):
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: canary.take("far", PINNED, yes), range(200)))
    assert taken.count(True) == 1
