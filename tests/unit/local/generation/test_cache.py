"""Keys and values by row: kept when others leave, within what was reserved, gone with the last."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.local.generation.cache import KvCache
from hybrid_infer.local.generation.pages import PagedRows
from hybrid_infer.local.generation.scheduling import extent

PLACES = (10, 300, 700)
LIMIT = 4096  # of what is reserved at the same time


def small_cache():
    return KvCache(1, 1, 1, torch.device("cpu"), torch.float32)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=80))
def test_rows_keep_what_they_hold_and_take_at_most_twice_what_was_reserved(moves):
    cache, live = small_cache(), {}
    with torch.inference_mode():
        for number, (is_new, choice) in enumerate(moves):
            places = PLACES[choice % len(PLACES)]
            if is_new and sum(map(extent, live.values())) + extent(places) <= LIMIT:
                cache.begin(number, places)
                assert not cache.row(number).any()
                cache.row(number).fill_(number)
                live[number] = places
            elif live:
                row = list(live)[choice % len(live)]
                del live[row]
                cache.end(row)
            assert all((cache.row(row) == row).all() for row in live)
            assert cache.num_places <= 2 * LIMIT
    assert bool(live) == bool(cache.num_places)


def test_room_that_ended_answers_leave_goes_to_answers_of_other_lengths():
    cache = small_cache()
    with torch.inference_mode():
        for row in range(8):
            cache.begin(row, 256)
        for row in range(1, 8):
            cache.end(row)
        cache.begin(8, 1024)
    assert cache.num_places == 256 + 1024


@pytest.mark.parametrize(
    ("make", "held"), [(small_cache, "num_places"), (lambda: PagedRows(4), "num_pages")]
)
def test_all_rows_are_forgotten_on_a_thread_that_does_not_compute(make, held):
    cache = make()
    with torch.inference_mode():
        for row in range(3):
            cache.begin(row, 256)
            if held == "num_pages":
                cache.reach(row, 1)
    assert getattr(cache, held)
    cache.clear()
    assert not getattr(cache, held)
    with torch.inference_mode():
        cache.begin(0, 256)  # a number that is free again
