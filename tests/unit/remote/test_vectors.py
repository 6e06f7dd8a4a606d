from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import RemoteProtocolError
from hybrid_infer.remote.responses import Asked
from hybrid_infer.remote.vectors import checked_vectors

SPEC = ModelSpec("embeddings", "small", "org/name", None, dim=2)
TWO = EmbedRequest(SPEC, ("a", "b"))
ONE = EmbedRequest(SPEC, ("a",))


def checked(rows, request=TWO, tolerance=0.02):
    return checked_vectors(rows, request, tolerance, Asked("host", "org/name"))


def test_vectors_are_renormalised_in_float32():
    vectors = checked([[0.606, 0.808], [0, 1]])
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1]], rtol=1e-6)


def test_vectors_that_were_not_to_be_normalised_stay_as_they_are():
    vectors = checked([[3, 4], [0, 0.5]], replace(TWO, normalize=False))
    np.testing.assert_array_equal(vectors, np.array([[3, 4], [0, 0.5]], np.float32))


def test_a_single_text_may_be_answered_by_a_single_list():
    assert checked([0.6, 0.8], ONE).shape == (1, 2)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {},
        "text",
        5,
        [],
        [[]],
        [[], []],
        [1.0, 0.0],
        [[1, 0]],
        [[1, 0], [1, 0], [1, 0]],
        [[1, 0, 0], [1, 0, 0]],
        [[1, 0], [1]],
        [[[1, 0]], [[1, 0]]],
        [["1", "0"], ["1", "0"]],
        [[True, False], [True, False]],
        [[1, None], [1, 0]],
        [[1, 0], None],
        [[float("nan"), 1], [1, 0]],
        [[float("inf"), 1], [1, 0]],
        [[1e39, 1], [1, 0]],
        [[10**400, 1], [1, 0]],
        [[0, 0], [1, 0]],
        [[1.1, 0], [1, 0]],
        [[0.9, 0], [1, 0]],
        [{"embedding": [1, 0]}, {"embedding": [1, 0]}],
    ],
    ids=range(25),
)
def test_everything_else_is_refused(rows):
    with pytest.raises(RemoteProtocolError) as caught:
        checked(rows)
    assert caught.value.status == 200
    assert caught.value.__context__ is None


@pytest.mark.parametrize("rows", [[[0, 0], [1, 0]], [[float("nan"), 1], [1, 0]], [[1e39, 1]] * 2])
def test_numbers_are_checked_without_normalisation_too(rows):
    with pytest.raises(RemoteProtocolError):
        checked(rows, replace(TWO, normalize=False))


def test_the_tolerance_is_a_setting():
    checked([[1.1, 0], [1, 0]], tolerance=0.2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_vectors_or_a_protocol_error(rows):
    for request in (TWO, ONE):
        try:
            vectors = checked(json.loads(json.dumps(rows)), request)
        except RemoteProtocolError:
            continue
        assert vectors.shape == (len(request.texts), 2)
        assert np.isfinite(vectors).all()
