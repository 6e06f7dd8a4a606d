"""Ends of every kind, at random: clients closed with 200 calls in flight, calls cancelled anywhere.

Small numbers here; HYBRID_INFER_TEST_SHUTDOWNS=100 and HYBRID_INFER_TEST_CANCELLATIONS=10000 make
them the published ones.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from hybrid_infer import AsyncHybridClient
from hybrid_infer.testing import FakeRemote

SHUTDOWNS = int(os.environ.get("HYBRID_INFER_TEST_SHUTDOWNS", "4"))
CANCELLATIONS = int(os.environ.get("HYBRID_INFER_TEST_CANCELLATIONS", "400"))
CALLS = 200
EXIT_SECONDS = 11.0
TEXTS = [f"text number {number} of the calls that are given up" for number in range(8)]

# One process, many clients: each is closed after a random number of its calls has ended, or by the
# end of the program. Prints how many calls ended with a result, with a typed error, otherwise.
SHUT_DOWN = """
import random, sys, threading
from hybrid_infer import HybridClient, HybridInferError
calls, rounds, chance = int(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
ends = {"result": 0, "error": 0, "other": 0}
lock = threading.Lock()
def run(client, kind, seen, enough):
    try:
        if kind == 0:
            client.chat_completion("Hello", model="small", max_tokens=20)
        elif kind == 1:
            list(client.chat_completion("Hello", model="small", max_tokens=20, stream=True))
        else:
            client.embed(["some words"] * kind, model="small")
        end = "result"
    except HybridInferError:
        end = "error"
    except BaseException as error:
        end = "other"
        print(repr(error), file=sys.stderr)
    with lock:
        ends[end] += 1
        seen[0] += 1
        if seen[0] >= enough[0]:
            enough[1].set()
for number in range(rounds):
    client = HybridClient(profile="tiny", policy="local-only", dtype="float32")
    if chance.random() < 0.8:
        client.warm(["embeddings/small", "chat/small"])
    seen, enough = [0], [chance.randrange(calls), threading.Event()]
    threads = [
        threading.Thread(target=run, args=(client, chance.randrange(6), seen, enough), daemon=True)
        for _ in range(calls)
    ]
    for thread in threads:
        thread.start()
    if enough[0]:
        enough[1].wait()
    client.close()
    if number < rounds - 1 or chance.random() < 0.5:
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    client.close()
print(rounds * calls, *ends.values(), flush=True)
"""


@pytest.mark.timeout(1800)
def test_clients_closed_with_calls_in_flight(capsys):
    words = [sys.executable, "-c", SHUT_DOWN, str(CALLS), str(SHUTDOWNS), "17"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = child.stdout.readline()
    told_at = time.monotonic()
    _, complaints = child.communicate(timeout=120)
    exit_seconds = time.monotonic() - told_at
    assert child.returncode == 0, complaints
    asked, results, errors, others = map(int, line.split())
    assert others == 0, complaints
    # The last client's calls may still be ending when the program does.
    assert asked - CALLS <= results + errors <= asked
    assert exit_seconds <= EXIT_SECONDS
    with capsys.disabled():
        print(
            f"shutdowns: {SHUTDOWNS} with {CALLS} calls in flight; {results} results, {errors} typed "
            f"errors, {others} others; the process ended within {EXIT_SECONDS:.0f} s"
        )


def in_use(client):
    """What an idle client holds: busy engines, threads, open files."""
    pool = client._session.local._engines._pool
    busy = [entry for entry in pool._entries.values() if entry.is_in_use]
    return len(busy), threading.active_count(), psutil.Process().num_fds()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("side", ["local", "remote"])
def test_calls_cancelled_anywhere(side, capsys):
    chance = random.Random(23)

    async def one(client, kind):
        if kind == 0:
            return await client.chat_completion("Hello", model="small", max_tokens=8, route=side)
        if kind == 1:
            stream = await client.chat_completion(
                "Hello", model="small", max_tokens=8, stream=True, route=side
            )
            async with stream:
                async for _ in stream:
                    pass
            return None
        return await client.embed(TEXTS[:kind], model="small", route=side)

    async def run(url):
        loop = asyncio.get_running_loop()
        async with AsyncHybridClient(
            profile="tiny", dtype="float32", base_url=url, api_key="hf_test"
        ) as client:
            await client.warm(["embeddings/small", "chat/small"])
            wanted = (await client.embed(TEXTS, model="small", route=side)).vectors
            for _ in range(2):  # a stream whose end comes late keeps its connection the next time
                await settle(client, one)
            before = in_use(client)
            cancelled = 0
            for _ in range(0, CANCELLATIONS, 50):
                tasks = [loop.create_task(one(client, chance.randrange(6))) for _ in range(50)]
                for task in tasks:
                    loop.call_later(chance.random() * chance.choice((0.001, 0.1, 2.0)), task.cancel)
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                cancelled += sum(isinstance(end, asyncio.CancelledError) for end in ended)
                wrong = [e for e in ended if isinstance(e, Exception)]
                assert wrong == []
            again = (await client.embed(TEXTS, model="small", route=side)).vectors
            np.testing.assert_allclose(again, wanted, atol=1e-5)
            await settle(client, one)
            gc.collect()
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            return cancelled, left, before, in_use(client)

    async def settle(client, call):
        """Whole calls of every kind, as many as are cancelled at once: what was given up has ended
        once these have, and as many connections are kept as ever will be."""
        await asyncio.gather(*(call(client, kind) for kind in (0, 1, 2, 3, 4, 5) * 9))

    with FakeRemote("echo") as fake:
        cancelled, tasks, before, after = asyncio.run(run(fake.url))
    assert cancelled > CANCELLATIONS // 10
    assert tasks == []
    assert after[0] == 0
    assert after[1] <= before[1]
    assert after[2] <= before[2]
    with capsys.disabled():
        print(
            f"cancellations ({side}): {CANCELLATIONS} calls, {cancelled} cancelled on their way; left "
            f"over: {len(tasks)} tasks, {after[0]} busy engines, {after[1] - before[1]} threads, "
            f"{after[2] - before[2]} files"
        )
