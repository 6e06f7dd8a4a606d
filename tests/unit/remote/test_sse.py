from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.remote.sse import ServerSentEvent, SseDecoder

GOLDEN = (
    "\ufeffdata: first\n\n"
    ": a comment\r\n"
    'event: update\rid: 7\rretry: 250\rdata:  two spaces\r\ndata\ndata:{"a": "é🌍"}\n\r\n'
    "data: nothing follows this one's line\r\r"
    "event: ignored, for it has no data\n\n"
    "id: with\0nul\nretry: soon\nunknown: field\ndata:\n\n"
    "data: never dispatched\n"
).encode()

EVENTS = [
    ServerSentEvent("first"),
    ServerSentEvent(' two spaces\n\n{"a": "é🌍"}', "update", "7"),
    ServerSentEvent("nothing follows this one's line", "message", "7"),
    ServerSentEvent("", "message", "7"),
]


def decoded(*chunks: bytes, **options: int) -> list[ServerSentEvent]:
    decoder = SseDecoder(**options)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_the_golden_stream_in_one_piece():
    assert decoded(GOLDEN) == EVENTS


def test_the_golden_stream_byte_by_byte():
    assert decoded(*(bytes([byte]) for byte in GOLDEN)) == EVENTS


@given(st.lists(st.integers(0, len(GOLDEN)), max_size=12))
def test_the_golden_stream_however_it_is_cut(cuts):
    places = [0, *sorted(cuts), len(GOLDEN)]
    pieces = [GOLDEN[start:end] for start, end in itertools.pairwise(places)]
    assert decoded(*pieces) == EVENTS


ALPHABET = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b":",
        b" ",
        b"data",
        b"event",
        b"id",
        b"x",
        b"\xff",
        "é".encode(),
        b"\xef\xbb\xbf",
        b"\0",
        b"retry",
        b"1",
    ]
)


@given(st.lists(ALPHABET, max_size=40).map(b"".join), st.integers(0, 80), st.integers(0, 80))
def test_any_bytes_mean_the_same_however_they_are_cut(stream, first, second):
    low, high = sorted((first, second))
    assert decoded(stream[:low], stream[low:high], stream[high:]) == decoded(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_line_end(end):
    assert decoded(b"data: a" + end + b"data: b" + end + end) == [ServerSentEvent("a\nb")]


def test_an_event_is_given_at_its_blank_line_and_not_later():
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == [ServerSentEvent("a")]
    assert decoder.feed(b"\ndata: b\n\n") == [ServerSentEvent("b")]


@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 200, b"data: x\n" * 40, b": " + b"c" * 200],
    ids=["line", "lines", "comment"],
)
def test_an_endless_event_is_refused(stream):
    with pytest.raises(ValueError, match="100 bytes"):
        decoded(*(bytes([byte]) for byte in stream), max_event_bytes=100)


def test_many_small_events_are_no_large_one():
    assert len(decoded(b"data: x\n\n" * 1000, max_event_bytes=100)) == 1000
