import signal
import subprocess
import sys
import threading

import httpx2
import pytest

from hybrid_infer.errors import ConfigError
from hybrid_infer.testing import Reply, Scenario, Step, serve

LONG = 20.0

PROGRAM = """
from hybrid_infer.testing import serve
serve(
    answers="echo",
    on_ready=lambda remote: print(remote.url, flush=True),
    on_request=lambda request: print(request.path, request.answered, flush=True),
)
print("done", flush=True)
"""


def test_ctrl_c_ends_it_cleanly():
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().strip()
        with httpx2.Client(trust_env=False) as client:
            assert client.get(f"{url}/nope").status_code == 404
            assert process.stdout.readline() == "/nope 404\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err) == (0, "done\n", "")


def test_it_serves_a_scenario_until_it_is_stopped():
    stop, urls, seen = threading.Event(), [], []
    ready = threading.Event()

    def on_ready(remote):
        urls.append(remote.url)
        ready.set()

    def on_request(request):
        seen.append((request.answered, request.finished, threading.current_thread().name))
        if len(seen) == 2:
            stop.set()

    scenario = Scenario((Step(Reply(status=500)),))
    server = threading.Thread(
        target=serve,
        args=(scenario,),
        kwargs={"answers": "echo", "on_ready": on_ready, "on_request": on_request, "stop": stop},
        name="serving",
    )
    server.start()
    assert ready.wait(LONG)
    with httpx2.Client(trust_env=False) as client:
        codes = [client.get(f"{urls[0]}/health").status_code for _ in range(2)]
    server.join(LONG)
    assert not server.is_alive()
    assert codes == [500, 200]
    assert seen == [(500, True, "serving"), (200, True, "serving")]


def test_a_wrong_scenario_is_told_before_anything_starts():
    with pytest.raises(ConfigError):
        serve({"steps": [{"statuss": 1}]}, answers="echo")
