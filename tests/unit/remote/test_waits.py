from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.remote.header_values import MAX_WAIT_SECONDS
from hybrid_infer.remote.waits import wait_seconds

DATE = ("Date", "Wed, 21 Oct 2015 07:28:00 GMT")


def wait(*fields: tuple[str, str], document: object = None) -> float | None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    return wait_seconds(headers, document)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("Retry-After", "7")], 7),
        ([("retry-after", " 1.5 ")], 1.5),
        ([("Retry-After", "3"), ("Retry-After", "9")], 9),
        ([("Retry-After", "3, 9")], 9),
        ([("Retry-After", "1" + "0" * 30)], 3600),
        ([("Retry-After", "-1")], None),
        ([("Retry-After", "1e30")], None),
        ([("Retry-After", "²")], None),
        ([("Retry-After", "nan")], None),
        ([("Retry-After", "")], None),
        ([DATE, ("Retry-After", "Wed, 21 Oct 2015 07:28:55 GMT")], 55),
        ([DATE, ("Retry-After", "Wed, 21 Oct 2015 07:27:00 GMT")], 0),
        ([DATE, ("Retry-After", "Thu, 22 Oct 2015 07:28:00 GMT")], 3600),
        ([("RateLimit", '"api";r=0;t=55')], 55),
        ([("RateLimit", '"api"; r=0 ; t=55')], 55),
        ([("RateLimit", '"api";r=3;t=55')], None),
        ([("RateLimit", '"a";r=3;t=55, "b";r=0;t=8')], 8),
        ([("RateLimit", '"api";r=0')], None),
        ([("Retry-After", "5"), ("RateLimit", '"api";r=0;t=55')], 55),
        ([("X-RateLimit-Reset", "30")], 30),
        ([("X-RateLimit-Reset", "30"), ("X-RateLimit-Remaining", "2")], None),
        ([("X-RateLimit-Reset", "30"), ("X-RateLimit-Remaining", "0")], 30),
        ([DATE, ("X-RateLimit-Reset", "1445412500")], 20),
        ([("X-RateLimit-Reset", "soon")], None),
        ([], None),
    ],
)
def test_headers(fields, expected):
    assert wait(*fields) == expected


@pytest.mark.parametrize("skew", ["20 Oct", "22 Oct"])
def test_a_date_is_measured_on_the_server_s_own_clock(skew):
    day = {"20 Oct": "Tue, 20 Oct", "22 Oct": "Thu, 22 Oct"}[skew]
    fields = [("Date", f"{day} 2015 07:28:00 GMT"), ("Retry-After", f"{day} 2015 07:28:30 GMT")]
    assert wait(*fields) == 30


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (20.0, 20.0),
        (1e9, 3600.0),
        (10**400, 3600.0),
        (-1, None),
        (math.nan, None),
        (math.inf, 3600.0),
        ("20", None),
        (True, None),
        (None, None),
    ],
)
def test_estimated_time(estimate, expected):
    assert wait(document={"estimated_time": estimate}) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["Retry-After", "RateLimit", "X-RateLimit-Reset", "Date", "X-RateLimit-Remaining"]
            ),
            st.text(st.characters(max_codepoint=255), max_size=60)
            | st.from_regex(r"\A[0-9 ,;=rt\"a:+-]{0,40}\Z")
            | st.sampled_from(
                [
                    "Wed, 21 Oct 2015 07:28:00 GMT",
                    "Wed, 99 Oct 99999 99:99:99 +9999",
                    "1 Jan 0001 00:00:00 +2359",
                ]
            ),
        ),
        max_size=5,
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.just("estimated_time") | st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)
def test_no_header_and_no_body_raises_or_leaves_the_range(fields, document):
    seconds = wait(*fields, document=document)
    assert seconds is None or 0 <= seconds <= MAX_WAIT_SECONDS
