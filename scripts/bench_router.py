"""What the router costs: calls, decisions, failover; peers in the same run.

Run it with .venv/bin/python scripts/bench_router.py; it prints a Markdown table.
With --soak N it makes N embed calls with one fault in twenty instead, and prints memory, threads
and file descriptors as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import socket
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from _loopback import loopback

PROMPT = "Say hi."
MODEL = "small"
ROUNDS, CALLS = 15, 60


def percentile(seconds: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def timed(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def made_client(url: str, **options: Any) -> Any:
    """A client of the tiny profile whose remote is at `url`."""
    from hybrid_infer import HybridClient

    return HybridClient(
        profile="tiny", base_url=url, api_key="hf_bench", dtype="float32", **options
    )


def peers(url: str) -> dict[str, Callable[[], Any]]:
    """Whatever is installed that makes the same call."""
    import httpx2

    body = {
        "model": "tiny/Phi-3-mini-4k-instruct",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 8,
    }
    bare = httpx2.Client()
    found: dict[str, Callable[[], Any]] = {
        "bare httpx2 post": lambda: bare.post(f"{url}/v1/chat/completions", json=body).json()
    }
    from huggingface_hub import InferenceClient

    hub = InferenceClient(base_url=f"{url}/v1", api_key="x")
    found["huggingface_hub"] = lambda: hub.chat_completion(
        [{"role": "user", "content": PROMPT}], max_tokens=8
    )
    try:
        import openai
    except ImportError:
        pass
    else:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x")
        found["openai"] = lambda: client.chat.completions.create(**body)
    try:
        import litellm
    except ImportError:
        return found
    router = litellm.Router(
        model_list=[
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "x"},
            }
        ]
    )
    found["litellm Router"] = lambda: router.completion(model="m", messages=body["messages"])
    return found


def bench_calls(url: str) -> list[tuple[str, str, str]]:
    """One warm chat call, alternating with the peers; and awaited."""
    with made_client(url) as client:
        calls = {
            **peers(url),
            "hybrid_infer": lambda: client.chat_completion(PROMPT, MODEL, max_tokens=8),
        }
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            timed(call, 30)
        for _ in range(ROUNDS):
            for name, call in calls.items():
                taken[name] += timed(call, CALLS)
    bare = statistics.median(taken["bare httpx2 post"])
    rows = []
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        above = "" if name == "bare httpx2 post" else f" ({(median - bare) * 1e3:+.3f} ms)"
        target = "≤ +0.150 ms above bare" if name == "hybrid_infer" else "peer"
        rows.append((f"warm chat call, {name}", target, f"{median * 1e3:.3f} ms{above}"))
    return rows


def bench_decision(url: str) -> list[tuple[str, str, str]]:
    """Planning and deciding alone: everything but the request itself."""
    from hybrid_infer.client.planning import planned
    from hybrid_infer.routing.targets import Outcome

    with made_client(url) as client:
        session = client._session  # noqa: SLF001 - the part that is measured
        request = session.embed_request(["text"], MODEL, normalize=True, truncate=True)
        answer = Outcome(0.001, result=client.embed("x", MODEL))  # type: ignore[arg-type]

        def decide() -> None:
            call = planned(session, request, None, session.limit("embeddings", None))
            next(call.flow)
            try:
                call.flow.send(answer)
            except StopIteration:
                return
            raise RuntimeError("the flow did not end")

        empty = _count_to(statistics.median(timed(decide, 2000)))
        gc.collect()
        turns = [(timed(decide, 4000), timed(empty, 4000)) for _ in range(11)]
    seconds, idle = zip(*turns, strict=True)
    return [
        ("routing decision alone, p99 (median)", "≤ 50 µs", _tail(seconds)),
        ("an empty loop as long, which the same machine interrupts", "", _tail(idle)),
    ]


def _tail(turns: Iterable[list[float]]) -> str:
    """The 99th percentile and the median of each turn; of both the median over the turns."""
    pairs = [(percentile(turn, 0.99), statistics.median(turn)) for turn in turns]
    tail, middle = (statistics.median(column) for column in zip(*pairs, strict=True))
    return f"{tail * 1e6:.0f} µs ({middle * 1e6:.0f})"


def _count_to(seconds: float) -> Callable[[], None]:
    """A loop that takes about `seconds` and does nothing."""

    def count(steps: int = 1000) -> None:
        for _ in range(steps):
            pass

    steps = round(1000 * seconds / statistics.median(timed(count, 1000)))
    return lambda: count(steps)


def bench_contention() -> list[tuple[str, str, str]]:
    """64 threads that ask one health for leave."""
    import random

    from hybrid_infer.datatypes.models import ModelSpec
    from hybrid_infer.routing.health import Health
    from hybrid_infer.routing.targets import Target

    health = Health(time.monotonic, random.Random(1))  # noqa: S311 - jitter
    target = Target("remote", "remote", "host.example")
    spec = ModelSpec("embeddings", "small", "org/model", None)
    start, taken = threading.Barrier(64), []

    def ask() -> None:
        mine = []
        start.wait()
        for _ in range(1000):
            began = time.perf_counter()
            admission = health.admit(target, spec, 10.0)
            mine.append(time.perf_counter() - began)
            if admission is not None:
                health.settle(admission)
        taken.extend(mine)

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [("admit, 64 threads, median", "≤ 5 µs", f"{statistics.median(taken) * 1e6:.1f} µs")]


def bench_failover() -> list[tuple[str, str, str]]:
    """From a fault to the start of warm local work."""
    from hybrid_infer.local.backend import LocalBackend

    begun: list[float] = []
    original = LocalBackend.call

    def noted(self: LocalBackend, *arguments: Any) -> Any:
        begun.append(time.perf_counter())
        return original(self, *arguments)

    LocalBackend.call = noted  # type: ignore[method-assign]
    try:
        return [_refused(begun), _open(begun), _limited(begun)]
    finally:
        LocalBackend.call = original  # type: ignore[method-assign]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _row(name: str, seconds: list[float]) -> tuple[str, str, str]:
    p99, median = percentile(seconds, 0.99) * 1e3, statistics.median(seconds) * 1e3
    return (f"{name} → local start, p99 (median)", "≤ 10 ms", f"{p99:.2f} ms ({median:.2f})")


def _refused(begun: list[float]) -> tuple[str, str, str]:
    with made_client(f"http://127.0.0.1:{_free_port()}") as client:
        client.warm("embeddings/small")
        taken = []
        for _ in range(300):
            client.reset()
            started = time.perf_counter()
            client.embed("text", MODEL)
            taken.append(begun[-1] - started)
    return _row("refused connection", taken[20:])


def _open(begun: list[float]) -> tuple[str, str, str]:
    with loopback(always=500) as url, made_client(url) as client:
        client.warm("embeddings/small")
        taken = []
        for _ in range(300):
            started = time.perf_counter()
            client.embed("text", MODEL)
            taken.append(begun[-1] - started)
    return _row("open breaker", taken[20:])


def _limited(begun: list[float]) -> tuple[str, str, str]:
    body = b"slow down"
    answer = b"HTTP/1.1 429 Too Many\r\nRetry-After: 30\r\nContent-Length: %d\r\n\r\n" % len(body)
    sent: list[float] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    connection.sendall(answer + body)
                    sent.append(time.perf_counter())

    threading.Thread(target=serve, daemon=True).start()
    taken = []
    with made_client(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
        client.warm("embeddings/small")
        for _ in range(300):
            client.reset()
            client.embed("text", MODEL)
            taken.append(begun[-1] - sent[-1])
    server.close()
    return _row("last byte of a 429", taken[20:])


def bench_amplification() -> list[tuple[str, str, str]]:
    """A remote that is fully down: how often it is asked, and what it gets while it is open."""
    import httpx2

    with loopback(always=500) as url, made_client(url) as client:
        client.warm("embeddings/small")
        for _ in range(100):
            client.embed("text", MODEL)
        asked = int(httpx2.get(url).text)
        for _ in range(200):
            client.embed("text", MODEL)
        more = int(httpx2.get(url).text) - asked
    return [
        ("remote fully down: its requests a call, 100 calls", "≤ 1.1", f"{asked / 100:.2f}"),
        ("requests sent while the breaker is open, 200 calls", "0", str(more)),
    ]


def bench_async(url: str) -> list[tuple[str, str, str]]:
    """The same warm call, awaited."""
    import httpx2

    from hybrid_infer import AsyncHybridClient

    async def main() -> tuple[float, float]:
        body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}
        ours, bare = [], []
        async with (
            AsyncHybridClient(profile="tiny", base_url=url, api_key="hf_bench") as client,
            httpx2.AsyncClient() as peer,
        ):
            for index in range(ROUNDS * CALLS + 30):
                started = time.perf_counter()
                (await peer.post(f"{url}/v1/chat/completions", json=body)).json()
                middle = time.perf_counter()
                await client.chat_completion(PROMPT, MODEL, max_tokens=8)
                if index >= 30:  # noqa: PLR2004 - warm by then
                    bare.append(middle - started)
                    ours.append(time.perf_counter() - middle)
        return statistics.median(ours), statistics.median(bare)

    ours, bare = asyncio.run(main())
    above = f"{ours * 1e3:.3f} ms ({(ours - bare) * 1e3:+.3f} ms; bare {bare * 1e3:.3f})"
    return [("warm chat call, awaited", "≤ +0.150 ms above bare", above)]


def soak(calls: int) -> None:
    """Many calls with one fault in twenty; memory, threads and descriptors on the way."""
    import psutil

    process = psutil.Process()
    lost = remote = 0
    with loopback(fault_every=20) as url, made_client(url) as client:
        client.warm(["embeddings/small", "chat/small"])
        print("| calls | by the remote | lost | RSS, MB | threads | descriptors |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |")
        for index in range(1, calls + 1):
            try:
                if index % 10:
                    route = client.embed("text", MODEL).route
                else:
                    route = client.chat_completion("Hi", MODEL, max_tokens=1).route
                remote += route.backend == "remote"
            except Exception:  # noqa: BLE001 - any error is a lost call, and is counted
                lost += 1
            if index % max(1, calls // 20) == 0:
                gc.collect()
                rss = process.memory_info().rss / 1e6
                row = (index, remote, lost, f"{rss:.1f}", process.num_threads(), process.num_fds())
                print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def main() -> None:
    """Print the table, or soak."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--soak", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("CI", "true")  # no notice about the tiny profile
    if arguments.soak:
        soak(arguments.soak)
        return
    rows = []
    with loopback() as url:
        rows += bench_calls(url) + bench_async(url) + bench_decision(url)
    rows += bench_contention() + bench_failover() + bench_amplification()
    print("| what | target | measured |")
    print("| --- | ---: | ---: |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
