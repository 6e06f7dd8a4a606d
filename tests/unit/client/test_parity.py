import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.client.parity import bound_for, compare, failures_of
from hybrid_infer.snapshots.probes import Probe

PROBES = (Probe("one", "a"), Probe("two", "b"))
UNIT = np.eye(2, 3, dtype=np.float32)


def judged(vectors, bound=0.999):
    return compare("far", PROBES, np.asarray(vectors, np.float32), UNIT, bound)


def test_equal_vectors_agree():
    rows = judged(UNIT)
    assert [
        (row.target, row.probe, row.cosine, row.max_abs, row.norm, row.why) for row in rows
    ] == [
        ("far", "one", 1.0, 0.0, 1.0, ""),
        ("far", "two", 1.0, 0.0, 1.0, ""),
    ]
    assert failures_of(rows) == ()


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        (UNIT[::-1], "cosine 0.000000"),
        (UNIT * 1.5, "norm 1.5"),
        (UNIT * 0, "cosine nan"),
        (UNIT * np.nan, "cosine nan"),
        (UNIT + np.inf, "cosine nan"),
        (-UNIT, "cosine -1"),
        (UNIT[:1], "shape"),
        (UNIT[:, :2], "shape"),
        (UNIT[0], "shape"),
        (np.zeros((0, 3)), "shape"),
    ],
)
def test_anything_else_fails(vectors, why):
    rows = judged(vectors)
    assert all(why in row.why for row in rows)
    assert len(failures_of(rows)) == len(rows) > 0


def test_one_wrong_text_is_named():
    rows = judged([UNIT[0], [0.1, 0.995, 0.0]])
    assert [bool(row.why) for row in rows] == [False, True]
    assert failures_of(rows)[0].startswith("far: two: cosine 0.99")


@given(st.floats(0, 0.2))
def test_the_bound_is_a_cosine(angle):
    turned = np.array([[np.cos(angle), np.sin(angle), 0], [0, 1, 0]])
    why = judged(turned, bound=0.99)[0].why
    assert (why == "") == (float(np.float32(np.cos(angle))) >= 0.99) or abs(
        np.cos(angle) - 0.99
    ) < 1e-6


def test_the_bound_is_that_of_the_least_precise_side():
    assert bound_for("float32") == bound_for("float32", "float32") == 0.99999
    assert bound_for("bfloat16") == bound_for("float32", None) == bound_for("float16") == 0.999
