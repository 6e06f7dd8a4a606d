"""How long answers take: which quantile, of which measurements, and how many keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.routing.latency import MAX_KEYS, LatencyWindow


@pytest.fixture
def window():
    return LatencyWindow()


def recorded(window, *seconds, key="a"):
    for taken in seconds:
        window.record(key, taken)
    return window


def test_before_the_first_measurement_the_default_holds(window):
    assert window.p95("a", default=3.5) == 3.5
    assert window.count("a") == 0
    assert recorded(window, 0.25).p95("a", default=3.5) == 0.25
    assert window.p95("b", default=1.5) == 1.5


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 11.0), (0.9, 19.0), (0.95, 20.0), (1.0, 20.0)]
)
def test_quantiles_of_one_to_twenty(window, share, expected):
    recorded(window, *[float(number) for number in range(20, 0, -1)])
    assert window.quantile("a", share, default=0.0) == expected


def test_p95_is_what_one_in_twenty_exceeds(window):
    recorded(window, *[float(number) for number in range(60)])
    assert window.p95("a", default=0.0) == 57.0


def test_only_the_last_sixty_four_count(window):
    recorded(window, *[100.0] * 64, *[1.0] * 63)
    assert window.p95("a", default=0.0) == 1.0
    assert window.quantile("a", 1.0, default=0.0) == 100.0
    assert recorded(window, 1.0).quantile("a", 1.0, default=0.0) == 1.0
    assert window.count("a") == 64


@given(
    st.lists(st.sampled_from([0.0, 0.5, 0.25, 1.0, 2.0, 1e9]), min_size=1, max_size=200),
    st.floats(0.0, 1.0),
)
def test_a_quantile_is_that_of_the_last_sixty_four_sorted(seconds, share):
    last = sorted(seconds[-64:])
    found = recorded(LatencyWindow(), *seconds).quantile("a", share, default=-1.0)
    assert found == last[min(len(last) - 1, int(share * len(last)))]


def test_the_key_measured_longest_ago_is_forgotten_first(window):
    for number in range(MAX_KEYS):
        window.record(f"key-{number}", 1.0)
    window.record("key-0", 1.0)
    assert window.count("key-1") == 1
    window.record("new", 1.0)
    assert [window.count(key) for key in ("key-0", "key-1", "key-2", "new")] == [2, 0, 1, 1]
