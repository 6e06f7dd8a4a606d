"""Connections: kept, stale, cancelled, and none left behind."""

from __future__ import annotations

import asyncio
import gc

import pytest

from hybrid_infer.errors import (
    RemoteProtocolError,
)


def test_a_stale_connection_is_replaced_without_a_word(wire, make_server, make_backend, caller):
    """The server closes after it has read the second request on the kept connection."""
    first, last = wire.answer(wire.completion("1")), wire.answer(wire.completion("2"))
    server = make_server(first, wire.Answer([], then="close"), last)
    backend = make_backend(server.url)

    if caller.mode == "sync":
        replies = [backend.call(wire.chat_request(), wire.deadline()) for _ in range(2)]
    else:

        async def both():
            return [await backend.acall(wire.chat_request(), wire.deadline()) for _ in range(2)]

        replies = asyncio.run(both())
    assert [reply.choices[0].message.content for reply in replies] == ["1", "2"]
    assert [request.connection for request in server.received] == [1, 1, 2]


def test_a_stale_connection_is_replaced_only_once(wire, make_server, make_backend):
    server = make_server(
        wire.answer(wire.completion()),
        wire.Answer([], then="close"),
        wire.Answer([], then="close"),
    )
    backend = make_backend(server.url)
    backend.call(wire.chat_request(), wire.deadline())
    with pytest.raises(RemoteProtocolError):
        backend.call(wire.chat_request(), wire.deadline())
    assert len(server.received) == 3


def test_a_kept_connection_that_broke_mid_reply_is_not_retried(wire, make_server, make_backend):
    whole = wire.json(wire.completion())
    server = make_server(wire.Answer([whole]), wire.Answer([whole[:40]], then="close"))
    backend = make_backend(server.url)
    backend.call(wire.chat_request(), wire.deadline())
    with pytest.raises(RemoteProtocolError):
        backend.call(wire.chat_request(), wire.deadline())
    assert len(server.received) == 2


def test_failures_leave_no_connection_behind(wire, make_server, make_backend, caller):
    server = make_server(
        *[wire.Answer([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"], then="close")] * 20
    )
    backend = make_backend(server.url)
    for _ in range(20):
        caller.failure(backend)
    gc.collect()
    if caller.mode == "sync":
        assert backend._channel._pools.kept.connections == []
        assert backend._channel._pools.kept._requests == []


def test_cancelling_closes_the_connection(wire, make_server, make_backend):
    server = make_server(wire.Answer([], then="hang"), wire.answer(wire.completion()))
    backend = make_backend(server.url)

    async def cancel_one_and_make_another():
        task = asyncio.ensure_future(backend.acall(wire.chat_request(), wire.deadline()))
        await asyncio.to_thread(server.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reply = await backend.acall(wire.chat_request(), wire.deadline())
        pools = backend._async_channel._loops[asyncio.get_running_loop()]
        return reply, len(pools.kept.connections), len(pools.kept._requests)

    reply, num_connections, num_requests = asyncio.run(cancel_one_and_make_another())
    assert reply.choices[0].message.content == "hello"
    assert (num_connections, num_requests) == (1, 0)
    assert server.num_connections == 2


def test_cancelling_many_chunks_cancels_all(wire, make_server, make_backend):
    server = make_server(behaviour=lambda _: wire.Answer([], then="hang"))
    backend = make_backend(server.url, wire.settings(batch=1, in_flight=4))

    async def cancel():
        request = wire.embed_request(*"123456789")
        task = asyncio.ensure_future(backend.acall(request, wire.deadline()))
        await asyncio.to_thread(server.wait_for_requests, 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    assert asyncio.run(cancel()) == 1
    assert len(server.received) == 4


async def others_are_done():
    """Wait until every other task of the loop, also one that was only just scheduled, is over."""
    await asyncio.to_thread(gc.collect)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


@pytest.mark.parametrize("is_begun", [True, False])
@pytest.mark.parametrize("in_thread", [True, False])
def test_a_dropped_stream_leaves_nothing_in_its_pool(
    wire, make_server, make_backend, is_begun, in_thread
):
    pieces = wire.events(wire.chunk("a"))[:-1]
    server = make_server(*[wire.Answer(pieces, then="hang") for _ in range(3)])
    backend = make_backend(server.url)

    async def drop():
        streams = [await backend.astream(wire.chat_request(), wire.deadline()) for _ in range(3)]
        if is_begun:
            for stream in streams:
                await anext(stream)
            del stream
        if in_thread:
            await asyncio.to_thread(streams.clear)
        streams.clear()
        await others_are_done()
        pools = backend._async_channel._loops[asyncio.get_running_loop()]
        return pools.kept._requests, pools.kept.connections

    assert asyncio.run(drop()) == ([], [])


def test_a_stream_dropped_after_its_loop_harms_nobody(wire, make_server, make_backend):
    """Warnings, those of lost sockets and of coroutines never awaited too, fail the test."""
    server = make_server(wire.Answer(wire.events(wire.chunk("a"))[:-1], then="hang"))
    backend = make_backend(server.url)

    async def begun():
        stream = await backend.astream(wire.chat_request(), wire.deadline())
        await anext(stream)
        return stream

    stream = asyncio.run(begun())
    del stream
    gc.collect()
