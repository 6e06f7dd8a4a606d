"""A Ray cluster on loopback in a process of its own, for a benchmark and for the tests.

Run as a program with ``--serve`` it answers commands, one JSON a line, until its stdin closes; then
it takes the cluster down. Everything that it starts has its mark in the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MARK = "CLUSTER_MARK"
OBJECT_STORE_BYTES = 80 * 2**20
PATIENCE_SECONDS = 20.0


class Cluster:
    """Ray, and Serve's proxy on a free port.

    Args:
        folder: for Ray's files; its path must be short, sockets are among them.
        cpus: cores that Ray gives away.
    """

    def __init__(self, folder: str, cpus: int) -> None:
        import ray
        from ray import serve

        self._port = free_port()
        ray.init(
            num_cpus=cpus,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level="error",
            namespace="serve",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": self._port})

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; an error is the answer."""
        try:
            return getattr(self, "do_" + command.pop("do"))(**command) or {}
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told of it
            return {"error": f"{type(error).__name__}: {error}"}

    def do_serve(
        self, prefix: str = "/", name: str = "default", **arguments: Any
    ) -> dict[str, Any]:
        """Deploy the application; its URL."""
        from ray import serve

        from hybrid_infer.adapters.ray import ServeArguments, app

        serve.run(app(ServeArguments(**arguments)), name=name, route_prefix=prefix)
        return {"url": f"http://127.0.0.1:{self._port}{prefix.rstrip('/')}"}

    def do_empty(self) -> dict[str, Any]:
        """Deploy an application that does nothing; its URL."""
        from ray import serve
        from starlette.responses import Response

        class Empty:
            async def __call__(self, _: Any) -> Response:
                return Response(b"{}")

        serve.run(serve.deployment(Empty).bind(), name="default", route_prefix="/")
        return {"url": f"http://127.0.0.1:{self._port}"}

    def do_waiting(self, count: int, seconds: float) -> dict[str, Any]:
        """Deploy replicas that take a request at a time, and wait instead of computing; its URL."""
        import asyncio

        from ray import serve
        from starlette.responses import Response

        class Waiting:
            async def __call__(self, _: Any) -> Response:
                await asyncio.sleep(seconds)
                return Response(b"{}")

        deployed = serve.deployment(
            num_replicas=count, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.1}
        )(Waiting)
        serve.run(deployed.bind(), name="default", route_prefix="/")
        return {"url": f"http://127.0.0.1:{self._port}"}

    def do_remove(self) -> None:
        """Take Serve and its applications down; the port is free then."""
        from ray import serve

        serve.shutdown()

    def do_embed(
        self, rows: list[dict[str, Any]], blocks: int, output: str, **arguments: Any
    ) -> dict[str, Any]:
        """Embed rows as a dataset of Ray's, into a Parquet folder."""
        import ray

        from hybrid_infer.adapters.ray import embed_dataset

        dataset = ray.data.from_items(rows, override_num_blocks=blocks)
        embed_dataset(dataset, **arguments).write_parquet(output)
        return {}


def _haproxy_variables(folder: str) -> dict[str, str]:
    """HAProxy's files in `folder` and its ports free ones, where Ray has fixed ones of its own."""
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "METRICS_SOCKET_PATH": "metrics.sock",
        "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state",
    }
    ports = ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    return {
        **{f"RAY_SERVE_HAPROXY_{name}": f"{folder}/ha/{file}" for name, file in files.items()},
        **{f"RAY_SERVE_{name}": str(free_port()) for name in ports},
    }


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def marked(mark: str) -> list[Any]:
    """The processes that a cluster has started, by its mark."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
    return found


def replicas(mark: str) -> list[int]:
    """The process ids of a cluster's replicas."""
    import psutil

    found = []
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::ServeReplica"):
                found.append(process.pid)
    return found


class ClusterProcess:
    """The program, seen from outside.

    Args:
        cpus: cores that Ray gives away.
        environment: further variables.
    """

    def __init__(self, cpus: int, environment: Mapping[str, str] | None = None) -> None:
        self.mark = secrets.token_hex(8)
        self._folder = tempfile.mkdtemp(prefix="ray")
        variables = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",  # a token of its own: the user's file is not touched
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            MARK: self.mark,
            **_haproxy_variables(self._folder),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", self._folder, str(cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables, **(environment or {})},
        )

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Have a command done.

        Raises:
            RuntimeError: it failed, or the program has died.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the cluster has no pipes")
        self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line or '{"error": "the cluster has died"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def kill_replica(self) -> None:
        """Kill one replica the hard way."""
        os.kill(replicas(self.mark)[0], signal.SIGKILL)

    def close(self) -> list[str]:
        """End the program and whatever is left of its cluster; the names of what was left."""
        import psutil

        try:
            self._process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        _, left = psutil.wait_procs(marked(self.mark), timeout=PATIENCE_SECONDS)
        names = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                names.append(process.name())
                process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        return names


@contextlib.contextmanager
def cluster(cpus: int, environment: Mapping[str, str] | None = None) -> Iterator[ClusterProcess]:
    """A cluster that ends with the block."""
    process = ClusterProcess(cpus, environment)
    try:
        yield process
    finally:
        process.close()


def main(folder: str, cpus: int) -> None:
    """Answer commands."""
    import ray
    from _peer import serve as answering  # beside this file

    made = Cluster(folder, cpus)
    try:
        answering(made.answer)
    finally:
        made.do_remove()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    main(sys.argv[2], int(sys.argv[3]))
