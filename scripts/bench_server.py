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
import socket
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from _peer import Peer, serve  # noqa: E402 - behind the above
from _report import Table, machine, staged_small, write_section  # noqa: E402 - behind the above

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


# The load in processes of its own ----------------------------------------------------------------


class OneByOne:
    """Bare HTTP over one kept connection."""

    def __init__(self, port: int) -> None:
        self._payloads = [request([text]) for text in short_texts()[:500]]
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Seconds of each of so many requests, one after another."""
        taken = []
        for number in range(command["repeats"]):
            started = time.perf_counter()
            self._connection.sendall(self._payloads[number % 500])
            answer = b""
            while not is_whole(answer):
                answer += self._connection.recv(1 << 20)
            taken.append(time.perf_counter() - started)
        return {"taken": taken}


def is_whole(answer: bytes) -> bool:
    """Whether the whole of an answer is here, which must be a good one."""
    if not answer.startswith(b"HTTP/1.1 200 "[: len(answer)]):
        raise RuntimeError(f"the server answered {answer[:40]!r}")
    head, _, body = answer.partition(b"\r\n\r\n")
    at = head.find(b"content-length: ") + 16
    return at > 15 and len(body) == int(head[at:].partition(b"\r")[0])  # noqa: PLR2004


class Load:
    """``load.c``, compiled; an event loop of Python's would need as much of the machine as the server.

    Args:
        folder: for what is compiled.
        port: of the server.
    """

    def __init__(self, folder: str, port: int) -> None:
        self._program, self._port = f"{folder}/load", port
        source = ROOT / "scripts" / "load.c"
        subprocess.run(["cc", "-O2", "-std=gnu11", "-o", self._program, source], check=True)
        texts = short_texts()
        self._payloads = {
            1: [request([text]) for text in texts[:500]],
            TEXTS_OF_OVERLOAD: [request(batch(texts, i, TEXTS_OF_OVERLOAD)) for i in range(100)],
        }

    def throughput(self, per_request: int, seconds: float) -> float:
        """Texts per second of kept connections that ask again once they are answered."""
        found = self._run(CLIENTS, per_request, seconds, 0.0)
        if found["refused"] or found["other"] or found["broken"]:
            raise RuntimeError(f"not every request was answered: {found}")
        return float(found["ok"] * per_request / found["seconds"])

    def overload(self, per_second: float, seconds: float) -> dict[str, Any]:
        """What becomes of requests of 32 texts that come at their appointed times."""
        return self._run(CONNECTIONS, TEXTS_OF_OVERLOAD, seconds, per_second)

    def _run(self, connections: int, per_request: int, seconds: float, rate: float) -> Any:
        payloads = self._payloads[per_request]
        given = b"".join(len(payload).to_bytes(8, sys.byteorder) + payload for payload in payloads)
        words = [self._program, str(self._port), str(connections), str(seconds), str(rate)]
        ran = subprocess.run(words, input=given, stdout=subprocess.PIPE, check=True)
        return json.loads(ran.stdout)


def request(texts: list[str]) -> bytes:
    """A request for vectors in OpenAI's shape, as its own clients send it."""
    body = json.dumps({"model": "small", "input": texts, "encoding_format": "base64"}).encode()
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


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
        here, there = Peer(script(), "client", "tiny"), Peer(script(), "one", str(port))
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


def clients(table: Table, repeats: int, seconds: float, folder: str) -> None:
    """64 callers in the same process against 64 kept connections, in turns."""
    with server() as (_, port):
        here, load = Peer(script(), "client"), Load(folder, port)
        for per_request in (1, TEXTS_OF_OVERLOAD):
            rates: list[tuple[float, float]] = []
            for turn in range(repeats + 1):
                took = seconds if turn else 2.0
                options = {"clients": CLIENTS, "per_request": per_request, "seconds": took}
                rate = here.ask("throughput", **options)["rate"]
                rates.append((rate, load.throughput(per_request, took)))
                print(per_request, *map(round, rates[-1]), file=sys.stderr)
            plain, served = (statistics.median(side) for side in zip(*rates[1:], strict=True))
            table.add(
                f"{CLIENTS} kept connections, texts a request: {per_request}",
                "≥ 0.8 of as many callers in the same process",
                f"{served:,.0f} texts/s beside {plain:,.0f}, {served / plain:.2f}",
                good=served >= 0.8 * plain,
            )
        here.stop()


def overload(table: Table, seconds: float, folder: str) -> None:
    """Ten times what the server can do, from a generator that does not wait."""
    import psutil

    with server() as (process, port):
        load = Load(folder, port)
        load.throughput(TEXTS_OF_OVERLOAD, 2.0)
        peak = load.throughput(TEXTS_OF_OVERLOAD, 8.0)
        before = psutil.Process(process.pid).memory_info().rss
        found = load.overload(OVERLOAD * peak / TEXTS_OF_OVERLOAD, seconds)
        grown = (psutil.Process(process.pid).memory_info().rss - before) / 2**20
        alive = process.poll() is None
        highest = highest_queue(port)
    # Until the last answer: what was accepted and is not computed yet counts, and the time that takes.
    rate = found["ok"] * TEXTS_OF_OVERLOAD / found["seconds"]
    name = f"{OVERLOAD} x capacity for {seconds:.0f} s"
    table.add(
        f"{name}: refusals", "all 429 with Retry-After, no crash",
        f"{found['ok']:,} x 200, {found['refused']:,} x 429 ({found['without_retry_after']} without "
        f"Retry-After, p99 {found['refusal_p99'] * 1e3:.0f} ms), {found['other']} x other, "
        f"{found['broken']} x broken, {found['late']:,} x no connection free; {grown:+.0f} MB",
        good=alive and not (found["without_retry_after"] or found["other"] or found["broken"]),
    )  # fmt: skip
    table.add(
        f"{name}: accepted work", "≥ 0.9 of peak",
        f"{rate:,.0f} texts/s beside {peak:,.0f}, {rate / peak:.2f}",
        good=rate >= 0.9 * peak,
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
    with staged_small(options.weights) as hub:
        for part in options.part or PARTS:
            table = Table()
            if part == "overhead":
                overhead(table, 2 * options.repeats + 1)
            elif part == "clients":
                clients(table, options.repeats, options.seconds, hub)
            else:
                overload(table, options.overload_seconds, hub)
            if not options.dry:
                write_section(f"server {part}", f"{machine(PACKAGES)}\n\n{table.markdown()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        kind, *rest = sys.argv[2:]
        serve(
            (
                InProcess(rest[0] if rest else None) if kind == "client" else OneByOne(int(rest[0]))
            ).answer
        )
    else:
        main()
