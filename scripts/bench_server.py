"""What the server costs: over the client in the same process, with 64 clients, and at ten times its capacity.

The server, the client that it is compared with, and the generator of the load are processes of their
own. The model is the real `small` for throughput and overload, and its seeded twin for the overhead of
a request, which the time of a real forward pass would hide.

python scripts/bench_server.py --part overhead --part clients --part overload
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from _peer import Peer, serve  # noqa: E402 - behind the above
from _report import Table, machine, weights_folder, write_section  # noqa: E402 - behind the above

PACKAGES = ("uvicorn", "fastapi", "httptools", "orjson", "torch")
CLIENTS = 64
TEXTS_OF_OVERLOAD = 32
OVERLOAD = 10
CONNECTIONS = 240  # below the server's own bound
TEXTS = 1000
TEXT_CHARACTERS = 160
TINY = "--profile=tiny"
LOCAL = "--policy=local-only"
PARTS = ("overhead", "clients", "overload")


def short_texts() -> list[str]:
    """The first characters of the standard library's docstrings."""
    found: list[str] = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if len(found) >= TEXTS:
            break
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    found.append(" ".join(text.split())[:TEXT_CHARACTERS])
    return found


# The client in a process of its own --------------------------------------------------------------


class InProcess:
    """`AsyncHybridClient`, called as the server calls it."""

    def __init__(self, profile: str | None) -> None:
        from hybrid_infer import AsyncHybridClient

        self._client = AsyncHybridClient(policy="local-only", profile=profile)
        self._texts = short_texts()
        self._runner = asyncio.Runner()

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        return self._runner.run(getattr(self, command.pop("do"))(**command))

    async def latency(self, repeats: int) -> dict[str, Any]:
        """Seconds of each of `repeats` calls, one after another."""
        taken = []
        for number in range(repeats):
            started = time.perf_counter()
            await self._client.embed(self._texts[number % 500], "small")
            taken.append(time.perf_counter() - started)
        return {"taken": taken}

    async def throughput(self, clients: int, per_request: int, seconds: float) -> dict[str, Any]:
        """Texts per second of `clients` callers in a closed loop."""
        done, end = 0, time.perf_counter() + seconds

        async def call(first: int) -> None:
            nonlocal done
            at = first
            while time.perf_counter() < end:
                await self._client.embed(batch(self._texts, at, per_request), "small")
                done += per_request
                at += clients

        started = time.perf_counter()
        await asyncio.gather(*(call(number) for number in range(clients)))
        return {"rate": done / (time.perf_counter() - started)}


def batch(texts: Sequence[str], number: int, size: int) -> list[str]:
    """The texts of request `number`."""
    first = number * size % (len(texts) - size)
    return list(texts[first : first + size])


# The load in a process of its own ----------------------------------------------------------------


class Load:
    """Bare HTTP over kept connections: little but the bytes."""

    def __init__(self, port: int) -> None:
        # An answer does not take a core from whoever computes for others: a client elsewhere could not.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        texts = short_texts()
        self._port, self._runner = port, asyncio.Runner()
        self._single = [request([texts[number]]) for number in range(500)]
        self._many = [request(batch(texts, i, TEXTS_OF_OVERLOAD)) for i in range(100)]

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        return self._runner.run(getattr(self, command.pop("do"))(**command))

    async def latency(self, repeats: int) -> dict[str, Any]:
        """Seconds of each of `repeats` requests, one after another on one connection."""
        connection, taken = await self._connect(), []
        for number in range(repeats):
            started = time.perf_counter()
            await exchange(*connection, self._single[number % 500])
            taken.append(time.perf_counter() - started)
        connection[1].close()
        return {"taken": taken}

    async def throughput(self, clients: int, per_request: int, seconds: float) -> dict[str, Any]:
        """Texts per second of `clients` kept connections in a closed loop."""
        payloads = self._single if per_request == 1 else self._many
        answered, taken = closed_loop(self._port, payloads, clients, seconds)
        return {"rate": answered * per_request / taken}

    async def overload(self, per_second: float, seconds: float) -> dict[str, Any]:
        """Requests of 32 texts at their appointed times, whatever became of those before."""
        # The one that has rested longest goes first: a new one that says nothing is soon closed.
        idle = deque([await self._connect() for _ in range(CONNECTIONS)])
        seen: Counter[str] = Counter()
        delays: list[float] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(connection: Any, payload: bytes) -> None:
            started = time.perf_counter()
            try:
                status, retry_after = await exchange(*connection, payload)
            except (OSError, asyncio.IncompleteReadError):
                seen["broken"] += 1
                connection = await self._connect()
            else:
                told = "" if retry_after else " without Retry-After"
                seen[str(status) if status == 200 else f"{status}{told}"] += 1  # noqa: PLR2004
                if status == 429:  # noqa: PLR2004 - HTTP
                    delays.append(time.perf_counter() - started)
            idle.append(connection)

        started = time.perf_counter()
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, started + number / per_second - time.perf_counter()))
            if not idle:
                seen["late"] += 1  # every connection is waiting for an answer
                continue
            task = asyncio.create_task(one(idle.popleft(), self._many[number % 100]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        taken = time.perf_counter() - started
        in_time = seen["200"]
        await asyncio.gather(*tasks)
        for _, writer in idle:
            writer.close()
        delays.sort()
        p99 = delays[len(delays) * 99 // 100] if delays else 0.0
        return {"seen": dict(seen), "rate": in_time * TEXTS_OF_OVERLOAD / taken, "refusal_p99": p99}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)


def closed_loop(
    port: int, payloads: Sequence[bytes], clients: int, seconds: float
) -> tuple[int, float]:
    """Requests answered, and the time it took; each connection asks again once it has its answer.

    By hand, because an event loop would need as much of the machine as the server.
    """
    answered, started = 0, time.perf_counter()
    end = started + seconds
    with selectors.DefaultSelector() as waiting:
        for number in range(clients):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting.register(connection, selectors.EVENT_READ, [number, b""])
            connection.sendall(payloads[number % len(payloads)])
        while waiting.get_map():
            for key, _ in waiting.select():
                connection, state = key.fileobj, key.data
                assert isinstance(connection, socket.socket)  # noqa: S101 - for the type checker
                data = connection.recv(1 << 20)
                state[1] += data
                if not data or not is_whole(state[1]):
                    if not data:
                        raise RuntimeError("the server has closed a connection")
                    continue
                answered += 1
                state[:] = state[0] + clients, b""
                if time.perf_counter() < end:
                    connection.sendall(payloads[state[0] % len(payloads)])
                else:
                    waiting.unregister(connection)
                    connection.close()
    return answered, time.perf_counter() - started


def is_whole(answer: bytes) -> bool:
    """Whether the whole of an answer is here, which must be a good one."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200 "[: len(answer)]):
        raise RuntimeError(f"the server answered {head[:40]!r}")
    at = head.find(b"content-length: ") + 16
    return at > 15 and len(body) == int(head[at:].partition(b"\r")[0])  # noqa: PLR2004


def request(texts: list[str]) -> bytes:
    """A request for vectors in OpenAI's shape, as its own clients send it."""
    body = json.dumps({"model": "small", "input": texts, "encoding_format": "base64"}).encode()
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, payload: bytes
) -> tuple[int, bool]:
    """One request and its answer: the status, and whether it says when to come back."""
    writer.write(payload)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    at = head.index(b"content-length: ") + 16
    await reader.readexactly(int(head[at : head.index(b"\r", at)]))
    return int(head[9:12]), b"\r\nretry-after: " in head


# The server --------------------------------------------------------------------------------------


@contextmanager
def server(*words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``hybrid-infer serve`` and its port."""
    command = [sys.executable, "-m", "hybrid_infer", "serve", "--port=0", LOCAL, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        try:
            yield process, int(process.stdout.readline().split()[3].rpartition(":")[2])
        finally:
            process.terminate()


def script() -> str:
    """This file, for processes of their own."""
    return str(Path(__file__))


def overhead(table: Table, repeats: int) -> None:
    """What a request adds to a call, one after another, in turns."""
    with server(TINY) as (_, port):
        here, there = Peer(script(), "client", "tiny"), Peer(script(), "load", str(port))
        gains, plain = [], []
        for turn in range(repeats + 1):
            taken = [peer.ask("latency", repeats=200)["taken"] for peer in (here, there)]
            print([round(1e3 * statistics.median(t), 3) for t in taken], file=sys.stderr)
            if turn:  # the first one warms up
                plain.append(statistics.median(taken[0]))
                gains.append(statistics.median(taken[1]) - plain[-1])
        here.stop()
        there.stop()
    cost = statistics.median(gains)
    table.add(
        "a request over a call in the same process, p50",
        "≤ 1.0 ms",
        f"{cost * 1e3:.2f} ms beside {statistics.median(plain) * 1e3:.2f} ms",
        good=cost <= 1e-3,  # noqa: PLR2004 - the target
    )


def clients(table: Table, repeats: int, seconds: float) -> None:
    """64 callers in the same process against 64 kept connections, in turns."""
    with server() as (_, port):
        here, there = Peer(script(), "client"), Peer(script(), "load", str(port))
        for per_request in (1, TEXTS_OF_OVERLOAD):
            rates: list[list[float]] = [[], []]
            for turn in range(repeats + 1):
                for peer, seen in zip((here, there), rates, strict=True):
                    took = seconds if turn else 2.0
                    options = {"clients": CLIENTS, "per_request": per_request, "seconds": took}
                    rate = peer.ask("throughput", **options)["rate"]
                    print(per_request, round(rate), file=sys.stderr)
                    if turn:
                        seen.append(rate)
            plain, served = (statistics.median(seen) for seen in rates)
            table.add(
                f"{CLIENTS} kept connections, texts a request: {per_request}",
                "≥ 0.8 of as many callers in the same process",
                f"{served:,.0f} texts/s beside {plain:,.0f}, {served / plain:.2f}",
                good=served >= 0.8 * plain,
            )
        here.stop()
        there.stop()


def overload(table: Table, seconds: float) -> None:
    """Ten times what the server can do, from a generator that does not wait."""
    import psutil

    with server() as (process, port):
        load = Peer(script(), "load", str(port))
        options = {"clients": CLIENTS, "per_request": TEXTS_OF_OVERLOAD}
        load.ask("throughput", seconds=2.0, **options)
        peak = load.ask("throughput", seconds=8.0, **options)["rate"]
        before = psutil.Process(process.pid).memory_info().rss
        per_second = OVERLOAD * peak / TEXTS_OF_OVERLOAD
        found = load.ask("overload", per_second=per_second, seconds=seconds)
        grown = (psutil.Process(process.pid).memory_info().rss - before) / 2**20
        alive = process.poll() is None
        highest = highest_queue(port)
        load.stop()
    seen = found["seen"]
    refused = sum(count for name, count in seen.items() if name not in ("200", "late"))
    name = f"{OVERLOAD} x capacity for {seconds:.0f} s"
    told = ", ".join(f"{count:,} x {status}" for status, count in sorted(seen.items()))
    table.add(
        f"{name}: refusals", "all 429 with Retry-After, no crash",
        f"{told}; answered within {found['refusal_p99'] * 1e3:.0f} ms (p99); {grown:+.0f} MB",
        good=alive and refused == seen.get("429", 0),
    )  # fmt: skip
    table.add(
        f"{name}: accepted work", "≥ 0.9 of peak",
        f"{found['rate']:,.0f} texts/s beside {peak:,.0f}, {found['rate'] / peak:.2f}",
        good=found["rate"] >= 0.9 * peak,
    )  # fmt: skip
    table.add(
        f"{name}: texts waiting at most", "≤ 8,192", f"{highest:,}",
        good=highest <= 8192,  # noqa: PLR2004 - the default bound
    )  # fmt: skip


def highest_queue(port: int) -> int:
    """The most texts that have ever waited in the server."""
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
        return int(json.load(answer)["most_texts_waiting"])


def main() -> None:
    """Measure everything and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round of the clients")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--weights", help="folder of the real weights")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.download import stage

    folder = weights_folder(options.weights) / "all-MiniLM-L6-v2"
    with tempfile.TemporaryDirectory() as hub:
        os.environ["HF_HUB_CACHE"] = hub
        stage(folder, load_registry().resolve("embeddings", "small"))
        for part in options.part or PARTS:
            table = Table()
            if part == "overhead":
                overhead(table, 2 * options.repeats + 1)
            elif part == "clients":
                clients(table, options.repeats, options.seconds)
            else:
                overload(table, options.overload_seconds)
            if not options.dry:
                write_section(f"server {part}", f"{machine(PACKAGES)}\n\n{table.markdown()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        kind, *rest = sys.argv[2:]
        serve(
            (
                InProcess(rest[0] if rest else None) if kind == "client" else Load(int(rest[0]))
            ).answer
        )
    else:
        main()
