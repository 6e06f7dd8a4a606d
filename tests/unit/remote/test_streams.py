"""Streamed answers over real TCP: parts, ends, interruptions, limits, closing."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from hybrid_infer.errors import (
    APITimeoutError,
    HybridInferError,
    OverloadedError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
    StreamInterruptedError,
)

DONE = "data: [DONE]\n\n"


def text_of(parts):
    return "".join(choice.delta.content or "" for part in parts for choice in part.choices)


def stream_request(wire, **changes):
    return wire.chat_request(stream=True, **changes)


def golden(wire):
    return [wire.chunk("Hé"), wire.chunk("llo "), ": keep-alive\n\n", wire.chunk("wörld 🌍")]


def test_a_whole_stream(wire, make_server, make_backend, caller):
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}\n\n'
    events = [*golden(wire), wire.chunk(None, "stop"), usage, DONE]
    server = make_server(wire.Answer(wire.events(*events)))
    parts, stream = caller.parts(
        make_backend(server.url), stream_request(wire, include_usage=True), wire.deadline()
    )
    assert text_of(parts) == "Héllo wörld 🌍"
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage.prompt_tokens == 5
    assert (stream.id, stream.created) == ("chatcmpl-2", 1700000001)
    assert stream.provenance.verified
    assert server.received[0].document["stream"] is True
    assert server.received[0].document["stream_options"] == {"include_usage": True}
    assert server.received[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("ending", ["done", "eof", "chunked-eof"])
def test_a_finish_reason_ends_a_stream_with_or_without_done(
    wire, make_server, make_backend, caller, ending
):
    events = [wire.chunk("a"), wire.chunk("b", "stop"), *([DONE] if ending == "done" else [])]
    pieces = wire.events(*events, chunked=ending == "chunked-eof")
    server = make_server(wire.Answer(pieces, then="close"))
    parts, stream = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline())
    assert text_of(parts) == "ab"
    assert not isinstance(stream, Exception)


@pytest.mark.parametrize("ending", ["done", "eof", "cut"])
def test_a_stream_without_finish_reason_is_interrupted(
    wire, make_server, make_backend, caller, ending
):
    pieces = wire.events(*golden(wire), *([DONE] if ending == "done" else []))
    if ending == "cut":
        pieces.pop()
    server = make_server(wire.Answer(pieces, then="close"))
    parts, error = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline())
    assert type(error) is StreamInterruptedError
    assert error.partial == text_of(parts) == "Héllo wörld 🌍"
    if ending == "cut":
        assert type(error.__cause__) is RemoteProtocolError
        assert error.__cause__.__context__ is None


def test_a_stream_cut_at_any_byte_never_looks_whole(wire, make_server, make_backend, caller):
    whole = b"".join(wire.events(wire.chunk("ab"), wire.chunk("c", "stop"), DONE))
    is_finished_from = whole.index(b'"finish_reason": "stop"') + len(b'"finish_reason": "stop"')
    cuts = range(0, len(whole), 3)
    server = make_server(*[wire.Answer([whole[:cut]], then="close") for cut in cuts])
    backend = make_backend(server.url)
    for cut in cuts:
        parts, end = caller.parts(backend, stream_request(wire), wire.deadline())
        if isinstance(end, HybridInferError):
            expected = StreamInterruptedError if parts else RemoteProtocolError
            assert type(end) is expected, cut
            assert getattr(end, "partial", "") == text_of(parts)
        else:
            assert cut > is_finished_from
            assert text_of(parts) == "abc"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ('data: {"error": {"message": "no", "code": 429}}\n\n', RateLimitError),
        ('data: {"error": "full", "error_type": "overloaded"}\n\n', OverloadedError),
        ('data: {"error": "broke", "error_type": "generation"}\n\n', RemoteServerError),
        ('event: error\ndata: {"message": "broke"}\n\n', RemoteServerError),
        ("event: error\ndata: broke\n\n", RemoteServerError),
        ("data: {broken\n\n", RemoteProtocolError),
        ('data: {"id": "x"}\n\n', RemoteProtocolError),
        ("data: [1]\n\n", RemoteProtocolError),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("before", [0, 1])
def test_an_error_inside_a_stream(wire, make_server, make_backend, caller, event, kind, before):
    events = [*[wire.chunk("so far")] * before, event, wire.chunk("more", "stop"), DONE]
    # Everything in one piece: what came before the error is still given out.
    server = make_server(wire.Answer([b"".join(wire.events(*events))], then="close"))
    parts, error = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline())
    assert len(parts) == before
    if before:
        assert type(error) is StreamInterruptedError
        assert error.partial == "so far"
        error = error.__cause__
    assert type(error) is kind


def test_a_refusal_comes_before_the_stream(wire, make_server, make_backend, caller):
    server = make_server(wire.answer({"error": "slow down"}, 429, Retry_After="9"))
    parts, error = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline())
    assert parts == []
    assert type(error) is RateLimitError
    assert error.retry_after == 9


def test_a_server_that_does_not_stream_gives_one_part(wire, make_server, make_backend, caller):
    server = make_server(wire.answer(wire.completion("all of it")))
    parts, stream = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline())
    assert [text_of([part]) for part in parts] == ["all of it"]
    assert parts[0].choices[0].finish_reason == "stop"
    assert stream.provenance.verified


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"a": 1}', b"{", b"[]", b"data: x"])
def test_a_stream_of_the_wrong_shape(wire, make_server, make_backend, caller, body):
    server = make_server(wire.Answer([wire.raw(body)]))
    parts, error = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline())
    assert parts == []
    assert type(error) is RemoteProtocolError
    assert error.status == 200


def test_every_choice_needs_its_end(wire, make_server, make_backend, caller):
    request = stream_request(wire, passthrough={"n": 2})
    first = [wire.chunk("a", "stop", 0)]
    second = [wire.chunk("b", None, 1), wire.chunk(None, "length", 1)]
    server = make_server(
        wire.Answer(wire.events(*first, *second, DONE)),
        wire.Answer(wire.events(*first, *second[:1], DONE)),
        wire.Answer(wire.events(*first, DONE)),
    )
    backend = make_backend(server.url)
    outcomes = [caller.parts(backend, request, wire.deadline())[1] for _ in range(3)]
    assert [isinstance(outcome, StreamInterruptedError) for outcome in outcomes] == [
        False,
        True,
        True,
    ]


def test_silence_before_the_first_part_ends_at_the_attempt_s_limit(
    wire, make_server, make_backend, caller
):
    head = wire.head(200, {"Content-Type": "text/event-stream"})
    # Comments keep a connection open, but they are no answer.
    server = make_server(wire.Answer([head, *[b": ping\n\n"] * 400], pause_seconds=0.02))
    backend = make_backend(server.url, wire.settings(attempt_timeout_seconds=0.2))
    started = time.monotonic()
    parts, error = caller.parts(backend, stream_request(wire), wire.deadline())
    assert time.monotonic() - started < 4
    assert parts == []
    assert type(error) is APITimeoutError


def test_silence_between_two_parts_ends_at_the_gap(wire, make_server, make_backend, caller):
    # In one piece: the server's own pauses are none of it.
    server = make_server(wire.Answer([b"".join(wire.events(*golden(wire))[:-1])], then="hang"))
    backend = make_backend(server.url, wire.settings(stream_gap_seconds=0.2))
    started = time.monotonic()
    parts, error = caller.parts(backend, stream_request(wire), wire.deadline())
    assert time.monotonic() - started < 4
    assert text_of(parts) == "Héllo wörld 🌍"
    assert type(error) is StreamInterruptedError
    assert type(error.__cause__) is APITimeoutError


def test_a_fixed_deadline_bounds_the_whole_stream(wire, make_server, make_backend, caller):
    pieces = wire.events(*[wire.chunk("x")] * 200)
    server = make_server(wire.Answer(pieces, pause_seconds=0.05))
    started = time.monotonic()
    _, error = caller.parts(make_backend(server.url), stream_request(wire), wire.deadline(2.0))
    assert time.monotonic() - started < 8
    assert type(error) is StreamInterruptedError


def test_every_part_renews_a_renewable_deadline(wire, make_server, make_backend, caller):
    pieces = wire.events(*[wire.chunk("x")] * 12, wire.chunk(None, "stop"), DONE)
    server = make_server(wire.Answer(pieces, pause_seconds=0.25))
    deadline = wire.deadline(2.5, renewable=True)
    parts, stream = caller.parts(make_backend(server.url), stream_request(wire), deadline)
    assert not isinstance(stream, Exception)
    assert text_of(parts) == "x" * 12


def test_a_caller_s_own_pause_is_not_the_remote_s_silence(wire, make_server, make_backend):
    now = [0.0]
    pieces = wire.events(wire.chunk("a"), wire.chunk("b", "stop"), DONE)
    server = make_server(wire.Answer(pieces))
    deadline = wire.deadline(10, renewable=True, clock=lambda: now[0])
    stream = make_backend(server.url).stream(stream_request(wire), deadline)
    first = next(stream)
    now[0] += 60.0
    assert text_of([first, *stream]) == "ab"


def test_a_finished_stream_gives_its_connection_back(wire, make_server, make_backend):
    events = wire.events(wire.chunk("a", "stop"), DONE)
    server = make_server(*[wire.Answer([b"".join(events)]) for _ in range(3)])
    backend = make_backend(server.url)
    for _ in range(3):
        assert text_of(backend.stream(stream_request(wire), wire.deadline())) == "a"
    assert server.num_connections == 1


def test_closing_early_closes_the_connection(wire, make_server, make_backend):
    server = make_server(wire.Answer(wire.events(*golden(wire))[:-1], then="hang"))
    backend = make_backend(server.url)
    stream = backend.stream(stream_request(wire), wire.deadline())
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert backend._channel._pools.kept.connections == []


def test_closing_wakes_a_reader_in_another_thread(wire, make_server, make_backend):
    server = make_server(wire.Answer(wire.events(wire.chunk("a"))[:-1], then="hang"))
    stream = make_backend(server.url).stream(stream_request(wire), wire.deadline(60))
    parts = [next(stream)]
    reading = threading.Event()
    pieces = stream._reply._pieces

    def announced():
        reading.set()
        yield from pieces

    stream._reply._pieces = announced()
    reader = threading.Thread(target=lambda: parts.extend(stream))
    reader.start()
    assert reading.wait(10)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert len(parts) == 1


def announcing(stream) -> asyncio.Event:
    """An event that is set once a task reads from `stream`."""
    reading = asyncio.Event()
    pieces = stream._reply._pieces

    async def announced():
        reading.set()
        async for piece in pieces:
            yield piece

    stream._reply._pieces = announced()
    return reading


def test_closing_wakes_a_reader_in_another_task(wire, make_server, make_backend):
    server = make_server(wire.Answer(wire.events(wire.chunk("a"))[:-1], then="hang"))
    backend = make_backend(server.url)

    async def read_and_close():
        stream = await backend.astream(stream_request(wire), wire.deadline(60))
        await anext(stream)
        reading = announcing(stream)
        reader = asyncio.ensure_future(anext(stream, None))
        await reading.wait()
        await stream.aclose()
        return await asyncio.wait_for(reader, 10)

    assert asyncio.run(read_and_close()) is None


def test_cancelling_a_reader_closes_the_stream(wire, make_server, make_backend):
    server = make_server(wire.Answer(wire.events(wire.chunk("a"))[:-1], then="hang"))
    backend = make_backend(server.url)

    async def read_and_cancel():
        stream = await backend.astream(stream_request(wire), wire.deadline(60))
        await anext(stream)
        reading = announcing(stream)
        reader = asyncio.ensure_future(anext(stream))
        await reading.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        pools = backend._async_channel._loops[asyncio.get_running_loop()]
        return pools.kept.connections

    assert asyncio.run(read_and_cancel()) == []


def test_a_dropped_stream_gives_its_connection_back(wire, make_server, make_backend):
    server = make_server(wire.Answer(wire.events(wire.chunk("a"))[:-1], then="hang"))
    backend = make_backend(server.url)
    stream = backend.stream(stream_request(wire), wire.deadline())
    next(stream)
    del stream
    assert backend._channel._pools.kept._requests == []
