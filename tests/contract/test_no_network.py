"""Once models are here, nothing opens a socket: every command and every call, watched by an audit hook.

What serves (`serve`, `fake-remote`, the demo's own remote) listens on loopback, and that is all.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

# Fails the process at the first socket that could leave the machine, or name that is looked up. An
# event loop's pair of AF_UNIX sockets wakes it up from other threads, and leads nowhere.
SPY = """
import os, socket, sys
seen = []
def hook(event, args):
    if event == "socket.__new__" and args[1] != socket.AF_UNIX:
        seen.append((event, args[1:]))
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind",
                   "socket.sendto", "socket.gethostbyaddr", "urllib.Request", "http.client.connect"):
        if not (event == "socket.connect" and args[0].family == socket.AF_UNIX):
            seen.append((event, args[1:]))
sys.addaudithook(hook)
"""
COMMAND = (
    SPY
    + """
from hybrid_infer.cli import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
if seen:
    sys.exit(f"sockets: {seen}")
sys.exit(code)
"""
)
CALLS = (
    SPY
    + """
import asyncio
from hybrid_infer import AsyncHybridClient, HybridClient, HybridInferError

asked = dict(models=MODELS, dtype="float32")
for policy in ("local-only", "local-first", "remote-first"):
    with HybridClient(policy=policy, cache=10, **asked) as client:
        client.embed(["a", "b"], model="mine")
        client.feature_extraction("a", model="mine")
        client.sentence_similarity("a", ["b", "c"], model="mine")
        client.embeddings.create(input="a", model="mine", encoding_format="base64")
        client.chat_completion("Hello", model="mine", max_tokens=3)
        with client.chat_completion("Hello", model="mine", max_tokens=3, stream=True) as stream:
            list(stream)
        client.chat.completions.create(
            messages=[{"role": "user", "content": "Hello"}], model="mine", max_tokens=3
        )
        list(client.embed_stream(["a", "b"], model="mine"))
        client.list_models(), client.status(), client.reset(), repr(client)
        if policy == "local-only":
            try:
                client.verify("embeddings/mine")
            except HybridInferError as error:  # there is nothing to compare it with
                print(type(error).__name__, file=sys.stderr)
        client.warm(["embeddings/mine", "chat/mine"])
        client.pull("embeddings/mine", source=FOLDERS["embeddings"], progress=False)
        client.unload("embeddings/mine")

async def awaited():
    async with AsyncHybridClient(policy="local-only", **asked) as client:
        await client.embed("a", model="mine")
        await client.feature_extraction("a", model="mine")
        await client.chat_completion("Hello", model="mine", max_tokens=3)
        async with await client.chat_completion("Hi", model="mine", max_tokens=3, stream=True) as s:
            async for _ in s:
                pass
        await client.sentence_similarity("a", ["b"], model="mine")
        async for _ in client.embed_stream(["a"], model="mine"):
            pass
        client.list_models(), client.status(), client.reset()
        await client.pull("embeddings/mine", source=FOLDERS["embeddings"], progress=False)
        await client.warm("embeddings/mine")
        await client.unload(["embeddings/mine", "chat/mine"])
asyncio.run(awaited())
print(len(seen), seen)
"""
)
REPOS = {"embeddings": "org/embedder", "chat": "org/talker"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models in a Hub cache, a bundle of them, and an environment that knows no keys."""
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.bundles import create_bundle
    from hybrid_infer.snapshots.resolve import find_snapshot
    from hybrid_infer.snapshots.staging import stage

    root = tmp_path_factory.mktemp("offline")
    models = {task: {"mine": {"repo": repo, "revision": "a" * 40}} for task, repo in REPOS.items()}
    (root / "models.yaml").write_text(json.dumps(models))
    folders = {}
    tiny = load_registry(profile="tiny")
    registry = load_registry(root / "models.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(root / "hub"))
        patch.setenv("HYBRID_INFER_CACHE_DIR", str(root / "own"))
        for task in REPOS:
            folders[task] = root / "folders" / task
            shutil.copytree(find_snapshot(tiny.resolve(task, "small")), folders[task])
            stage(folders[task], registry.resolve(task, "mine"))
        create_bundle(root / "it.bundle", [registry.resolve(task, "mine") for task in REPOS])
    return root, models, folders


OFFLINE = ([], ["HF_HUB_OFFLINE"], ["TRANSFORMERS_OFFLINE"])


@pytest.fixture(params=OFFLINE, ids=" ".join)
def environment(request, world):
    root = world[0]
    known = {
        "HF_HOME": str(root / "hf"),
        "HF_HUB_CACHE": str(root / "hub"),
        "HYBRID_INFER_CACHE_DIR": str(root / "own"),
        "HYBRID_INFER_MODELS": str(root / "models.yaml"),
        "PATH": os.environ["PATH"],
        "HOME": str(root),
    }
    return known | dict.fromkeys(request.param, "1")


def run(program, words, environment, stdin=""):
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip


def test_every_call_opens_no_socket(world, environment):
    _, models, folders = world
    program = CALLS.replace("MODELS", repr(models), 1)
    program = program.replace("FOLDERS", repr({task: str(path) for task, path in folders.items()}))
    done = run(program, [], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0 []"


COMMANDS = [
    (["--version"], 0),
    (["--help"], 0),
    (["models"], 0),
    (["models", "--json"], 0),
    (["embed", "-", "--model", "mine"], 0),
    (["embed", "-", "--model", "mine", "--policy", "local-only", "--strict"], 0),
    (["embed", "TEXTS", "-o", "TARGET.jsonl", "--model", "mine"], 0),
    (["chat", "Hello", "--model", "mine", "--max-tokens", "3"], 0),
    (["chat", "Hello", "--model", "mine", "--max-tokens", "3", "--no-stream"], 0),
    (["chat", "--model", "mine", "--max-tokens", "3"], 0),
    (["verify", "embeddings/mine", "--policy", "local-only"], 2),
    (["doctor", "--no-network"], 0),
    (["pull", "embeddings/mine", "--from", "FOLDER"], 0),
    (["bundle", "inspect", "BUNDLE"], 0),
    (["bundle", "install", "BUNDLE"], 0),
    (["bundle", "create", "chat/mine", "embeddings/mine", "-o", "TARGET.zst"], 0),
]
# Those that serve, or ask what serves: see below.
LISTENING = {"serve", "status", "fake-remote", "demo"}


def test_every_command_and_every_method_is_among_them():
    from hybrid_infer import AsyncHybridClient, HybridClient
    from hybrid_infer.cli import app, bundle

    named = {command.name for command in app.registered_commands}
    assert (
        named == {words[0] for words, _ in COMMANDS if words[0][0] != "-"} - {"bundle"} | LISTENING
    )
    packed = {command.callback.__name__ for command in bundle.app.registered_commands}
    assert packed == {words[1] for words, _ in COMMANDS if words[0] == "bundle"}
    for client in (HybridClient, AsyncHybridClient):
        for name in {name for name in dir(client) if not name.startswith("_")} - {"close"}:
            least = 1 if name == "verify" else 2
            assert CALLS.count(f"client.{name}(") >= least, name


@pytest.mark.parametrize(
    ("words", "code"),
    COMMANDS,
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_every_command_opens_no_socket(world, environment, words, code, tmp_path):
    root, _, folders = world
    named = {
        "FOLDER": str(folders["embeddings"]),
        "BUNDLE": str(root / "it.bundle"),
        "TEXTS": str(tmp_path / "texts.txt"),
        "TARGET.jsonl": str(tmp_path / "made.jsonl"),
        "TARGET.zst": str(tmp_path / "made.zst"),
    }
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    done = run(COMMAND, [named.get(word, word) for word in words], environment, stdin="one text\n")
    assert done.returncode == code, done.stderr + done.stdout


def test_the_spy_sees_a_socket(environment):
    done = run(COMMAND, ["pull", "org/other"], environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    if any(name.endswith("OFFLINE") for name in environment):
        assert done.returncode == 3
    else:
        assert "sockets:" in done.stderr


# Loopback: the commands that serve, and what they are asked by ------------------------------------

# Writes what was bound, connected to or looked up, as [event, host, port], where its first word says.
LISTED = """
import atexit, json, socket, sys
seen = set()
def hook(event, args):
    if event in ("socket.bind", "socket.connect"):
        if args[0].family != socket.AF_UNIX:
            seen.add((event, *map(str, args[1][:2])))
    elif event in ("socket.sendto", "socket.gethostbyname", "socket.gethostbyaddr",
                   "socket.getaddrinfo"):
        seen.add((event, *map(str, args[:2])))
target = sys.argv[1]
atexit.register(lambda: open(target, "w").write(json.dumps(sorted(seen))))
sys.addaudithook(hook)
from hybrid_infer.cli import main
main(sys.argv[2:])
"""
LOOPBACK = "127.0.0.1"


def listed(path, ours=()):
    """What a process did with sockets, by event; ports are replaced by their names."""
    names = {str(port): name for name, port in ours}
    return {
        (event, host, names.get(port, port)) for event, host, port in json.loads(path.read_text())
    }


def begin(words, path, environment):
    return subprocess.Popen(
        [sys.executable, "-c", LISTED, str(path), *words],
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_server_listens_on_loopback_and_opens_nothing_else(environment, tmp_path):
    server = begin(["serve", "--port", "0"], tmp_path / "server", environment)
    url = server.stdout.readline().split()[3]
    port = int(url.rpartition(":")[2])
    body = {"model": "mine", "input": "a", "messages": [{"role": "user", "content": "Hi"}]}
    for path in ("embeddings", "chat/completions"):
        asked = body | ({"max_tokens": 3} if "chat" in path else {})
        del asked["messages" if path == "embeddings" else "input"]
        assert httpx2.post(f"{url}/v1/{path}", json=asked, timeout=60).status_code == 200
    asking = begin(["status", "--url", url, "--once"], tmp_path / "status", environment)
    assert asking.communicate(timeout=60)[1] == ""
    server.terminate()
    assert server.wait(60) == 0, server.communicate()[1]
    server.communicate()
    assert listed(tmp_path / "server") == {
        ("socket.bind", LOOPBACK, "0"), ("socket.getaddrinfo", LOOPBACK, "0"),
    }  # fmt: skip
    allowed = {
        ("socket.connect", LOOPBACK, "server"), ("socket.getaddrinfo", LOOPBACK, "server"),
    }  # fmt: skip
    assert listed(tmp_path / "status", [("server", port)]) <= allowed


def test_a_fake_remote_listens_on_loopback_and_opens_nothing_else(environment, tmp_path):
    remote = begin(["fake-remote", "--port", "0"], tmp_path / "remote", environment)
    assert LOOPBACK in remote.stdout.readline()
    remote.send_signal(signal.SIGINT)
    remote.communicate(timeout=60)
    assert listed(tmp_path / "remote") == {("socket.bind", LOOPBACK, "0")}


@pytest.mark.timeout(200)
def test_the_demo_speaks_to_its_own_remote_alone(environment, tmp_path):
    words = ["demo", "-o", str(tmp_path / "demo.png"), "--json"]
    played = begin(words, tmp_path / "demo", environment)
    _, complaints = played.communicate(timeout=180)
    assert played.returncode == 0, complaints
    seen = listed(tmp_path / "demo")
    assert {host for _, host, _ in seen} == {LOOPBACK}
    bound = {port for event, _, port in seen if event == "socket.bind"}
    asked = {port for event, _, port in seen if event == "socket.connect"}
    assert len(asked) == 1  # the port that its remote got
    assert bound <= {"0", *asked}


# The real thing: a machine whose only network is gone ---------------------------------------------

HELPER = ("unshare", "--map-root-user", "--net", "--")


def can_cut_off():
    if shutil.which(HELPER[0]) is None:
        return False
    return subprocess.run([*HELPER, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_machine_without_a_network_installs_and_serves_the_real_model(weights, tmp_path):
    if not can_cut_off():
        pytest.skip("no network namespace can be made here (unshare)")
    program = [*HELPER, sys.executable, "-m", "hybrid_infer"]
    fresh = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "CI": "true"}
    here = fresh | {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HYBRID_INFER_CACHE_DIR": str(tmp_path / "own"),
    }
    bundle = tmp_path / "small.bundle"

    def command(*words, environment, stdin=""):
        done = subprocess.run(
            [*program, *words],
            env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=110,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    names = ["embeddings/small"]
    command("pull", names[0], "--from", weights / "all-MiniLM-L6-v2", environment=here)
    smollm2 = weights / "SmolLM2-135M-Instruct"
    models = Path(tmp_path / "models.yaml")
    entry = {"repo": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "b" * 40}
    models.write_text(json.dumps({"chat": {"real": entry | {"context_length": 8192}}}))
    if smollm2.is_dir():
        names.append("chat/real")
        command("pull", names[1], "--models", models, "--from", smollm2, environment=here)
    command("bundle", "create", *names, "-o", bundle, "--models", models, environment=here)

    installed = json.loads(command("bundle", "install", bundle, "--json", environment=fresh))
    assert set(installed["installed"]) == set(names)
    text = "The weather is lovely today.\nIt's so sunny outside!\nHe drove to the stadium.\n"
    lines = command("embed", "-", "--model", "small", "--dtype", "float32", "--strict",
                    environment=fresh, stdin=text).splitlines()  # fmt: skip
    first, second, third = (json.loads(line) for line in lines)

    def cosine(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert cosine(first, second) == pytest.approx(0.6660, abs=1e-3)
    assert cosine(first, third) == pytest.approx(0.1046, abs=1e-3)
    report = json.loads(
        command("verify", "embeddings/small", "--json", "--strict", environment=fresh)
    )
    assert report["ok"]
    if smollm2.is_dir():
        said = command("chat", "Say hello.", "--model", "real", "--max-tokens", "8", "--strict",
                       "--models", installed["models_yaml"], environment=fresh)  # fmt: skip
    else:
        said = command("chat", "Say hello.", "--profile", "tiny", "--max-tokens", "8",
                       environment=fresh)  # fmt: skip
    assert said.strip()
