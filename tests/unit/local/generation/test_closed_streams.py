"""A thousand streams of a real client, closed at any point by callers of both kinds, leave nothing."""

import asyncio
import gc
import random
import threading
import tracemalloc

import pytest
from anyio.lowlevel import checkpoint

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.local.generation import loop
from hybrid_infer.local.native import library

ROUNDS, SYNC_CALLERS, ASYNC_CALLERS, STREAMS_EACH = 5, 4, 16, 10
LONGEST_READ = 12  # parts that a caller reads before it goes
OPTIONS = {"max_tokens": 300, "temperature": 1.0, "stream": True}


@pytest.fixture
def loops(monkeypatch):
    """The decoding loops that were made."""
    made = []
    submit = loop.DecodeLoop.submit

    def watched(self, job):
        if self not in made:
            made.append(self)
        submit(self, job)

    monkeypatch.setattr(loop.DecodeLoop, "submit", watched)
    return made


def leave_some(client, seed):
    """Streams read by a thread: closed, lost, or left by an error."""
    chance = random.Random(seed)
    for number in range(STREAMS_EACH):
        stream = client.chat_completion(
            "tell me", model=chance.choice(("default", "small")), **OPTIONS
        )
        for _ in range(chance.randrange(LONGEST_READ)):
            next(stream, None)
        if number % 2:
            stream.close()


async def leave_some_async(client, seed):
    """Streams read by a task: closed, or the task is cancelled while it waits."""
    chance = random.Random(seed)

    async def read(parts):
        model = chance.choice(("default", "small"))
        async with await client.chat_completion("tell me", model=model, **OPTIONS) as stream:
            for _ in range(parts):
                await anext(stream, None)

    for number in range(STREAMS_EACH):
        task = asyncio.create_task(read(chance.randrange(LONGEST_READ)))
        if number % 2:
            for _ in range(chance.randrange(20)):
                await checkpoint()
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def one_round(client, awaited, runner, number):
    """Threads and tasks side by side; tasks that are left afterwards."""
    threads = [
        threading.Thread(target=leave_some, args=(client, 1000 * number + caller))
        for caller in range(SYNC_CALLERS)
    ]

    async def everyone():
        seeds = range(100 * number, 100 * number + ASYNC_CALLERS)
        await asyncio.gather(*(leave_some_async(awaited, seed) for seed in seeds))
        return len(asyncio.all_tasks()) - 1

    for thread in threads:
        thread.start()
    left = runner.run(everyone())
    for thread in threads:
        thread.join()
    return left


def settle(client, awaited, runner, loops):
    """Ask every loop something: its first step takes all who have gone with it."""
    gc.collect()
    for model in ("default", "small"):
        options = {"model": model, "max_tokens": 2}
        client.chat_completion("hi", **options)
        runner.run(awaited.chat_completion("hi", **options))
    for made in loops:
        with made._lock:
            assert len(made._live) <= 1  # the answer just given, if its step has not ended
            assert not made._schedule


@pytest.mark.timeout(90)
def test_streams_closed_at_any_point_leave_nothing(loops):
    options = {"profile": "tiny", "policy": "local-only"}
    with asyncio.Runner() as runner, HybridClient(**options) as client:
        awaited = AsyncHybridClient(**options)
        one_round(client, awaited, runner, 0)
        settle(client, awaited, runner, loops)
        threads = threading.active_count()
        tracemalloc.start()
        try:
            before = tracemalloc.take_snapshot()
            for number in range(1, ROUNDS + 1):
                assert one_round(client, awaited, runner, number) == 0
            settle(client, awaited, runner, loops)
            grown = tracemalloc.take_snapshot().compare_to(before, "filename")
        finally:
            tracemalloc.stop()
        assert threading.active_count() <= threads
        assert sum(change.size_diff for change in grown) < 1_000_000
        runner.run(awaited.close())
    assert len(loops) == 4
    for made in loops:
        assert not made._live
        cache = made._decoder.cache
        assert not (cache.num_pages if library() else cache.num_places)
