"""What nobody knows any more is freed, whatever the application has told the garbage collector."""

import gc
import weakref

import pytest

from hybrid_infer.local.freeing import free_memory


class Cycle:
    def __init__(self):
        self.itself = self


@pytest.fixture
def collected_by_hand():
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def test_a_cycle_is_collected(collected_by_hand):
    known = weakref.ref(Cycle())
    assert known() is not None
    free_memory()
    assert known() is None
    assert not gc.get_freeze_count()


def test_a_cycle_is_collected_that_was_frozen_and_what_is_in_use_stays_frozen(collected_by_hand):
    known = weakref.ref(Cycle())
    gc.freeze()
    gc.collect()
    assert known() is not None
    free_memory()
    assert known() is None
    assert gc.get_freeze_count()
