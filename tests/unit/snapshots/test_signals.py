"""Every signal in every phase of a command: what ends, what stays, and that the next run succeeds.

A command is a real process that stops by itself where a phase is, tells so through a pipe, and is
then sent the signal. No phase is found by waiting a while. Each phase meets one of the signals here,
and every one with HYBRID_INFER_TEST_SIGNALS=all.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter

import pytest

from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.folders import INCOMING, repo_folder
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.testing import FakeRemote, Reply

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
ALL = os.environ.get("HYBRID_INFER_TEST_SIGNALS") == "all"
REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"
REPO = "sentence-transformers/all-MiniLM-L6-v2"
MODELS = {"embeddings": {"mine": {"repo": REPO, "revision": REVISION}}}
WEIGHTS = "model.safetensors"
COUNTED: Counter[str] = Counter()

# Where the process stops: an audit event, and what its arguments hold.
PULLS = {
    "verify": ("open", "incoming/blobs/"),
    "record": ("os.rename", "models.lock"),
    "place files": ("os.rename", "incoming/blobs/"),
    "place snapshot": ("os.rename", "incoming/placed"),
}
BUNDLES = {
    "bundle create": ("open", ".it.bundle."),
    "bundle create, read": ("open", WEIGHTS),
    "bundle create, place": ("os.rename", ".it.bundle."),
}
INSTALLS = {
    "bundle install, read": ("open", "it.bundle"),
    "bundle install, record": ("os.rename", "models.lock"),
    "bundle install, write": ("open", f"snapshots/.{REVISION}"),
    "bundle install, place": ("os.rename", f"snapshots/.{REVISION}"),
    "bundle install, aliases": ("os.rename", ".yaml"),
}
LOADS = {"load, compare": ("open", WEIGHTS), "load, import": ("import", "torch")}
PHASES = {
    "test_while_what_came_is_proved_and_placed": PULLS,
    "test_while_a_bundle_is_written": BUNDLES,
    "test_while_a_bundle_is_installed": INSTALLS,
    "test_while_a_model_is_loaded": LOADS,
}

# Runs the command line, and stops once, at the first audit event that is the phase's: tells it
# through one pipe, and goes on when the other one is closed.
COMMAND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts aside
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096  # what it writes at a time, 10 MB else
event, part, told, held = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
was = []
def hook(name, args):
    if name == event and not was and part in str(args) and ".part'" not in str(args):
        was.append(1)
        os.write(told, b".")
        os.read(held, 1)
if event:
    sys.addaudithook(hook)
from hybrid_infer.cli import main
main(sys.argv[5:])
"""


def pytest_generate_tests(metafunc):
    """Every phase with one signal, in turn, or with each."""
    phases = list(PHASES.get(metafunc.function.__name__, [""]))
    pairs = [(phase, number) for phase in phases for number in SIGNALS]
    if not ALL:
        first = len(metafunc.function.__name__)
        pairs = [(phase, SIGNALS[(first + i) % len(SIGNALS)]) for i, phase in enumerate(phases)]
    if "phase" in metafunc.fixturenames:
        names = [f"{phase}-{number.name}" for phase, number in pairs]
        metafunc.parametrize(("phase", "number"), pairs, ids=names)
    elif "number" in metafunc.fixturenames:
        numbers = [number for _, number in pairs]
        metafunc.parametrize("number", numbers, ids=[number.name for number in numbers])


class World:
    """A machine's folders, and the commands that run on it."""

    def __init__(self, root, url=""):
        self.root = root
        self.hub, self.own = root / "hub", root / "own"
        (root / "models.yaml").write_text(json.dumps(MODELS))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "HF_HUB_CACHE": str(self.hub),
            "HYBRID_INFER_CACHE_DIR": str(self.own),
            "HYBRID_INFER_MODELS": str(root / "models.yaml"),
            "HF_ENDPOINT": url,
            "PYTHONUNBUFFERED": "1",
            "CI": "true",
        }

    def start(self, words, phase=("", ""), stdin=subprocess.DEVNULL, program=COMMAND):
        """A command, and the ends of its two pipes: one is readable when it has come to its phase."""
        told, tell = os.pipe()
        held, hold = os.pipe()
        program = [sys.executable, "-c", program, *phase, str(tell), str(held), *map(str, words)]
        child = subprocess.Popen(
            program, env=self.environment, pass_fds=(tell, held), stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(tell)
        os.close(held)
        return child, told, hold

    def run(self, *words, stdin=None):
        """A command that must succeed."""
        child, told, hold = self.start(words, stdin=subprocess.PIPE)
        os.close(told)
        os.close(hold)
        out, complaints = child.communicate(stdin, timeout=100)
        assert child.returncode == 0, complaints.decode()
        return out

    def left(self):
        """Files and folders that no command means to leave."""
        known = {"blobs", "snapshots", "refs"}
        found = [entry for repo in self.hub.glob("models--*") for entry in repo.iterdir()]
        odd = [entry for entry in found if entry.name not in known]
        names = {".models.lock.guard"}
        for place in (self.root, self.hub, self.own):
            odd += [path for path in place.glob("**/.*") if path.name not in names]
            odd += place.glob("**/*.part")
        return odd


def finish(child, pipes, number):
    """Send a signal to a command, and see it end by that signal."""
    child.send_signal(number)
    for pipe in pipes:
        os.close(pipe)
    complaints = child.communicate(timeout=60)[1].decode()
    assert child.returncode in ({130, -number} if number == signal.SIGINT else {-number}), (
        complaints
    )
    assert "Traceback" not in complaints


def end(child, told, hold, number):
    """`finish` a command that has come to its phase, and let it go on there."""
    assert select.select([told], [], [], 100)[0], "the phase never came"
    assert os.read(told, 1) == b".", child.communicate()[1].decode()
    finish(child, (hold, told), number)


@pytest.fixture(scope="session")
def folder():
    return find_snapshot(load_registry(profile="tiny").resolve("embeddings", "small"))


@pytest.fixture(autouse=True, scope="module")
def _counted(pytestconfig):
    yield
    phases = ", ".join(f"{phase} {count}" for phase, count in sorted(COUNTED.items()))
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            f"commands ended by a signal and run again cleanly: {sum(COUNTED.values())} ({phases})"
        )


def clean(world, phase):
    assert world.left() == []
    COUNTED[phase] += 1


# Pulls --------------------------------------------------------------------------------------------


def test_while_a_file_comes(tmp_path, folder, serve_hub, number):
    hub = serve_hub(folder)
    world = World(tmp_path, hub.url)
    hub.stops[WEIGHTS], hub.is_halting = 40_000, True
    child, *pipes = world.start(["pull", "embeddings/mine"])
    assert hub.halted.wait(100)
    unfinished = repo_folder(REPO, world.hub) / INCOMING / "blobs" / f"{hub.etag(WEIGHTS)}.part"
    while not unfinished.stat().st_size:  # it is on its way
        os.sched_yield()
    finish(child, pipes, number)
    here = unfinished.stat().st_size
    hub.go_on.set()
    hub.stops.clear()
    world.run("pull", "embeddings/mine")
    assert 0 < here in hub.ranges
    clean(world, "download")


def test_while_what_came_is_proved_and_placed(tmp_path, folder, serve_hub, number, phase):
    hub = serve_hub(folder)
    world = World(tmp_path, hub.url)
    words = ["pull", "embeddings/mine"]
    end(*world.start(words, PULLS[phase]), number)
    world.run(*words)
    world.run("embed", "-", "--model", "mine", "--strict", stdin=b"one text\n")
    assert hub.fetched().count(WEIGHTS) == 1
    clean(world, phase)


def test_while_a_pickle_is_converted(tmp_path, serve_hub, number):
    import torch
    from safetensors.torch import load_file

    tiny = find_snapshot(load_registry(profile="tiny").resolve("embeddings", "large"))
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    tail = source / "2_Dense"
    torch.save(load_file(tail / WEIGHTS), tail / "pytorch_model.bin")
    (tail / WEIGHTS).unlink()
    started = tmp_path / "started"
    os.mkfifo(started)
    # The interpreter of the child process tells that it has begun, and who it is.
    (tmp_path / "python").write_text(
        f'#!/bin/sh\necho $$ >"{started}"\nexec "{sys.executable}" "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    program = f"import sys; sys.executable = {str(tmp_path / 'python')!r}\n" + COMMAND
    hub = serve_hub(source)
    world = World(tmp_path, hub.url)
    words = ["pull", "embeddings/mine"]
    child, *pipes = world.start(words, program=program)
    grandchild = os.pidfd_open(int(started.read_text()))
    finish(child, pipes, number)
    assert select.select([grandchild], [], [], 60)[0], "the child process goes on"
    os.close(grandchild)
    world.run(*words)
    clean(world, "convert")


# Bundles ------------------------------------------------------------------------------------------


@pytest.fixture
def staged(tmp_path, folder, monkeypatch):
    world = World(tmp_path)
    for name in ("HF_HUB_CACHE", "HYBRID_INFER_CACHE_DIR"):
        monkeypatch.setenv(name, world.environment[name])
    stage(folder, load_registry(tmp_path / "models.yaml").resolve("embeddings", "mine"))
    return world


def test_while_a_bundle_is_written(staged, number, phase):
    words = ["bundle", "create", "embeddings/mine", "-o", staged.root / "it.bundle"]
    end(*staged.start(words, BUNDLES[phase]), number)
    assert not (staged.root / "it.bundle").exists()
    staged.run(*words)
    staged.run("bundle", "inspect", staged.root / "it.bundle")
    clean(staged, phase.partition(",")[0])


def test_while_a_bundle_is_installed(staged, tmp_path_factory, number, phase):
    bundle = staged.root / "it.bundle"
    staged.run("bundle", "create", "embeddings/mine", "-o", bundle)
    there = World(tmp_path_factory.mktemp("there"))
    end(*there.start(["bundle", "install", bundle], INSTALLS[phase]), number)
    assert not any(there.hub.rglob(f"snapshots/{REVISION}/*")) or "aliases" in phase
    there.run("bundle", "install", bundle)
    there.run("embed", "-", "--model", "mine", "--strict", stdin=b"one text\n")
    clean(there, "bundle install")


def test_while_a_folder_is_staged(tmp_path, folder, number):
    world = World(tmp_path)
    words = ["pull", "embeddings/mine", "--from", folder]
    end(*world.start(words, ("os.rename", f"snapshots/.{REVISION}")), number)
    world.run(*words)
    clean(world, "pull --from")


# Work ---------------------------------------------------------------------------------------------


def test_while_a_model_is_loaded(staged, number, phase):
    words = ["embed", "-", "--model", "mine", "--policy", "local-only"]
    (staged.root / "text").write_text("one text\n")
    with (staged.root / "text").open() as text:
        end(*staged.start(words, LOADS[phase], stdin=text), number)
    staged.run(*words, stdin=b"one text\n")
    clean(staged, "load")


def test_while_texts_are_embedded(staged, number):
    texts, vectors = staged.root / "texts.txt", staged.root / "vectors.jsonl"
    texts.write_text("".join(f"text {line}\n" for line in range(300)))
    words = ["embed", texts, "-o", vectors, "--model", "mine", "--policy", "local-only"]
    end(*staged.start(words, ("open", ".parts")), number)
    staged.run(*words)
    assert len(vectors.read_text().splitlines()) == 300
    clean(staged, "embed")


def test_while_an_answer_comes(tmp_path, number):
    world = World(tmp_path)
    words = ["chat", "Hello", "--profile", "tiny", "--max-tokens", "3000"]
    child, *pipes = world.start([*words, "--policy", "local-only"])
    assert child.stdout.read(1)
    finish(child, pipes, number)
    world.run(*words[:-1], "3", "--policy", "local-only")
    clean(world, "chat")


def test_while_a_remote_answers(tmp_path, number):
    with FakeRemote() as remote:
        remote.enqueue(Reply(stall_after_events=1))
        world = World(tmp_path)
        words = ["chat", "Hello", "--profile", "tiny", "--base-url", remote.url]
        words += ["--policy", "remote-only", "--max-tokens", "3"]
        child, *pipes = world.start(words)
        remote.wait_for(1)
        finish(child, pipes, number)
        world.run(*words)
        clean(world, "remote chat")


# Servers ------------------------------------------------------------------------------------------


class Serving:
    """``hybrid-infer serve`` that waits for a remote in the middle of a stream."""

    def __init__(self, world, remote, port=0):
        words = ["serve", "--port", port, "--profile", "tiny", "--policy", "remote-only"]
        self.child, *self.pipes = world.start([*words, "--base-url", remote.url])
        line = self.child.stdout.readline().decode()
        assert line, self.child.communicate()[1].decode()
        self.port = int(line.split()[3].rpartition(":")[2])

    def begin_stream(self):
        """The socket of a client that has had the first piece of its answer."""
        messages = [{"role": "user", "content": "Hello"}]
        body = json.dumps({"model": "small", "messages": messages, "stream": True}).encode()
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        told = b""
        while b"data:" not in told:
            piece = client.recv(4096)
            assert piece, told
            told += piece
        return client


@pytest.mark.parametrize("is_draining", [False, True], ids=["in flight", "draining"])
def test_while_a_server_serves(tmp_path, number, is_draining):
    with FakeRemote() as remote:
        remote.enqueue(Reply(stall_after_events=2))
        world = World(tmp_path)
        server = Serving(world, remote)
        with server.begin_stream() as client:
            if is_draining:
                server.child.send_signal(signal.SIGTERM)
                assert b"no new requests" in server.child.stderr.readline()
            server.child.send_signal(number)
            if number != signal.SIGKILL and not is_draining:
                assert b"no new requests" in server.child.stderr.readline()
                remote.release()  # it finishes what it has begun
            while client.recv(4096):
                pass
        for pipe in server.pipes:
            os.close(pipe)
        complaints = server.child.communicate(timeout=60)[1].decode()
        ends = {-number} if number == signal.SIGKILL else {128 + number} if is_draining else {0}
        assert server.child.returncode in ends, complaints
        again = Serving(world, remote, server.port)
        finish(again.child, again.pipes, signal.SIGKILL)
        clean(world, "drain" if is_draining else "serve")
