"""The rate limit that headers tell: parsed from anything, and handed on once a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.datatypes.limits import RateLimitState
from hybrid_infer.errors import RateLimitError
from hybrid_infer.remote.backend import RemoteBackend
from hybrid_infer.remote.header_values import MAX_COUNT, MAX_WAIT_SECONDS
from hybrid_infer.remote.rate_limits import rate_limit_state
from hybrid_infer.remote.waits import wait_seconds

DATE = ("Date", "Wed, 21 Oct 2015 07:28:00 GMT")


def told(*fields: tuple[str, str]) -> RateLimitState | None:
    return rate_limit_state([(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], None),
        ([("Retry-After", "5"), ("Content-Type", "text/html")], None),
        ([("RateLimit", "garbage")], None),
        ([("X-RateLimit-Remaining", "²")], None),
        ([("X-RateLimit-Remaining", "-1")], None),
        ([("RateLimit", '"api";r=3;t=55')], (3, 55, None)),
        ([("RateLimit", '"api";r=0')], (0, None, None)),
        ([("RateLimit", '"api";t=999999')], (None, 3600, None)),
        (
            [
                ("RateLimit", '"api";r=3;t=55'),
                ("RateLimit-Policy", '"fixed window";"api";q=500;w=300'),
            ],
            (3, 55, 500),
        ),
        ([("RateLimit-Policy", '"api";q=500;w=300')], (None, None, 500)),
        (
            [
                ("RateLimit", '"day";r=900;t=1000, "minute";r=2;t=9'),
                ("RateLimit-Policy", '"day";q=1000;w=86400, "minute";q=10;w=60'),
            ],
            (2, 9, 10),
        ),
        (
            [
                ("RateLimit", '"c";r=1;t=2'),
                ("RateLimit-Policy", '"a";q=1;w=1'),
                ("RateLimit-Policy", '"b";q=2;w=2'),
            ],
            (1, 2, None),
        ),
        ([("RateLimit", '"a;r=9,b";r=1;t=2')], (1, 2, None)),
        (
            [
                ("X-RateLimit-Limit", "100, 100;w=60"),
                ("X-RateLimit-Remaining", "7"),
                ("X-RateLimit-Reset", "30"),
            ],
            (7, 30, 100),
        ),
        (
            [("X-RateLimit-Remaining", "7"), ("X-RateLimit-Remaining", "4")],
            (4, None, None),
        ),
        ([("RateLimit-Remaining", "7"), ("RateLimit-Reset", "3")], (7, 3, None)),
        (
            [
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-reset-requests", "6m0.5s"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1h"),
            ],
            (59, 360.5, 60),
        ),
        ([DATE, ("X-RateLimit-Reset", "1445412500")], (None, 20, None)),
        ([DATE, ("X-RateLimit-Reset", "1445412500000")], (None, 20, None)),
        ([("X-RateLimit-Remaining", "9" * 64)], (MAX_COUNT, None, None)),
    ],
)
def test_what_headers_tell(fields, expected):
    assert told(*fields) == (None if expected is None else RateLimitState(*expected))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("x-ratelimit-reset-requests", "20ms")], 0.02),
        ([("x-ratelimit-reset-requests", "1h1m1s")], 3600),
        ([("x-ratelimit-reset-requests", "1x")], None),
        (
            [
                ("x-ratelimit-remaining-requests", "3"),
                ("x-ratelimit-reset-requests", "50s"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "6s"),
            ],
            6,
        ),
    ],
)
def test_a_wait_is_that_of_the_limit_that_is_used_up(fields, expected):
    headers = [(name.encode(), value.encode()) for name, value in fields]
    assert wait_seconds(headers) == expected


NAMES = st.sampled_from(
    [
        "Retry-After",
        "RateLimit",
        "RateLimit-Policy",
        "RateLimit-Reset",
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
        "X-RateLimit-Remaining-Requests",
        "X-RateLimit-Reset-Requests",
        "X-RateLimit-Reset-Tokens",
        "Date",
    ]
)
VALUES = (
    st.text(st.characters(max_codepoint=255), max_size=60)
    | st.from_regex(r"\A[0-9 ,;=rtqwhms\"a:.+-]{0,40}\Z")
    | st.from_regex(r'\A("[a-z;,]{0,3}";r=[0-9]{1,70};t=[0-9]{1,70},? ?){1,3}\Z')
    | st.sampled_from(
        [
            "²",
            "NaN",
            "inf",
            "-inf",
            "-1",
            "1e999",
            "0x10",
            "9" * 5000,
            "9" * 60 + "h",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Wed, 99 Oct 99999 99:99:99 +9999",
            "1 Jan 0001 00:00:00 +2359",
            "31 Dec 9999 23:59:59 -2359",
        ]
    )
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_no_header_raises_or_leaves_its_range(fields):
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    wait = wait_seconds(headers)
    assert wait is None or 0 <= wait <= MAX_WAIT_SECONDS
    state = rate_limit_state(headers)
    if state is None:
        return
    assert state != RateLimitState()
    for counted in (state.remaining, state.limit):
        assert counted is None or (type(counted) is int and 0 <= counted <= MAX_COUNT)
    assert state.reset_seconds is None or 0 <= state.reset_seconds <= MAX_WAIT_SECONDS


LIMITS = {"RateLimit": '"api";r=4;t=9', "RateLimit_Policy": '"api";q=500;w=300'}


def backend_that_tells(wire, url, states):
    from hybrid_infer.datatypes.models import RemoteSpec

    spec = RemoteSpec("box", "hf-router", url)
    return RemoteBackend(spec, key=None, settings=wire.settings(), on_limits=states.append)


def test_each_reply_that_tells_a_limit_is_told_once(wire, make_server, caller):
    server = make_server(
        wire.answer(wire.completion(), **LIMITS),
        wire.answer({"error": "slow down"}, 429, **LIMITS),
        wire.answer(wire.completion()),
    )
    states: list[RateLimitState] = []
    backend = backend_that_tells(wire, server.url, states)
    caller.call(backend, wire.chat_request(), wire.deadline())
    assert states == [RateLimitState(4, 9.0, 500)]
    assert isinstance(caller.failure(backend), RateLimitError)
    assert len(states) == 2
    caller.call(backend, wire.chat_request(), wire.deadline())
    assert len(states) == 2
    backend.close()
