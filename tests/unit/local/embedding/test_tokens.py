"""Sequences that lie end to end are the same as sequences in a list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.local.embedding.tokens import Tokens

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=8)


def as_lists(tokens):
    assert len(tokens.ids) == sum(tokens.lengths)
    assert tokens.ids.dtype == np.int32
    assert tokens.ids.flags.c_contiguous
    return [ids.tolist() for ids in tokens]


@given(LISTS)
def test_they_are_what_they_were_made_of(lists):
    tokens = Tokens.of(lists)
    assert as_lists(tokens) == lists
    assert len(tokens) == len(lists)
    for index in range(-len(lists), len(lists)):
        assert tokens[index].tolist() == lists[index]
    for index in (len(lists), -len(lists) - 1):
        with pytest.raises(IndexError):
            tokens[index]


@given(LISTS.filter(len), st.data())
def test_any_of_them_can_be_taken_in_any_order(lists, data):
    places = data.draw(st.lists(st.sampled_from(range(len(lists))), min_size=1, unique=True))
    assert as_lists(Tokens.of(lists).take(places)) == [lists[place] for place in places]


@given(st.lists(LISTS, min_size=1, max_size=5))
def test_what_is_joined_splits_again(parts):
    joined = Tokens.join([Tokens.of(lists) for lists in parts])
    assert as_lists(joined) == [ids for lists in parts for ids in lists]
    assert [as_lists(part) for part in joined.split(map(len, parts))] == parts
