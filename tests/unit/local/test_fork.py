"""A real engine and a real fork: the child gets an answer or a typed error, and never hangs."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, signal
from hybrid_infer import HybridClient
from hybrid_infer.errors import HybridInferError

def ask(client, *texts):
    try:
        return list(client.embed(texts, model="small", deadline=30).vectors.shape)
    except HybridInferError as error:
        return [type(error).__name__, error.message]

def open_client():
    return HybridClient(policy="local-only", profile="tiny")

client = open_client()
said = {"before": [ask(client, "one"), ask(client, "two", "three")]}
reader, writer = os.pipe()
if not (child := os.fork()):
    signal.alarm(60)  # a child that hangs is killed, which its status tells
    answers = {"inherited": ask(client, "one")}
    client.close()
    with open_client() as own:
        answers["own"] = [ask(own, "one"), ask(own, "two", "three")]
    os.write(writer, json.dumps(answers).encode())
    os._exit(0)
os.close(writer)
said["status"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
said |= json.loads(os.read(reader, 65536) or b"{}")
said["after"] = ask(client, "four")
client.close()
print(json.dumps(said))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told_so_and_a_client_of_its_own_works():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        timeout=180,
    )
    said = json.loads(done.stdout)
    assert said["before"] == said["own"] == [[1, 384], [2, 384]]
    assert said["status"] == 0
    kind, message = said["inherited"]
    assert kind == "EngineClosedError"
    assert "fork" in message
    assert said["after"] == [1, 384]
