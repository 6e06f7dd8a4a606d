"""The program as a process: start-up, pipes, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.tiny import ensure_tiny

PROGRAM = [sys.executable, "-m", "hybrid_infer"]
FULL_DISK = Path("/dev/full")


@pytest.fixture
def start():
    """Starts the program; kills what a failed test has left running."""
    with ExitStack() as stack:

        def start_one(*words, **options):
            program = subprocess.Popen([*PROGRAM, *words], **options)
            stack.enter_context(program)
            stack.callback(program.kill)
            return program

        yield start_one


def test_help_and_version():
    done = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    for command in ("demo", "chat", "embed", "models", "pull", "doctor", "fake-remote"):
        assert command in done.stdout
    version = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"hybrid-infer \d+\.\d+\.\d+\n", version.stdout)


def test_help_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from hybrid_infer.cli import main\n"
        "try: main(['chat', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'httpx2', 'huggingface_hub', 'yaml',\n"
        "         'matplotlib', 'sentence_transformers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.skipif(not FULL_DISK.exists(), reason="only Linux has a disk that is full")
def test_a_full_disk_is_one_line():
    words = [*PROGRAM, "models", "--profile", "tiny"]
    with FULL_DISK.open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: [Errno 28]")
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_ends_it_quietly(start):
    program = start(
        *("models", "--json", "--profile", "tiny"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    program.stdout.close()
    with program.stderr:
        shown = program.stderr.read()
    assert program.wait(60) in (0, 1)
    assert shown == b""


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_ctrl_c_ends_a_waiting_call_with_130(start, fake_remote_factory):
    from hybrid_infer.testing import Reply

    remote = fake_remote_factory(answers="echo")
    remote.enqueue(Reply(stall_after_bytes=0))
    words = ["chat", "hi", "-m", "small", "--policy", "remote-only", "--base-url", remote.url]
    program = start(
        *words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    remote.wait_for(1, timeout=60)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert b"Traceback" not in out + err


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_a_terminal_sees_progress_with_a_rate_while_a_file_is_embedded(start, tmp_path, echo):
    import pty

    source = tmp_path / "texts.txt"
    source.write_text("".join(f"text {i}\n" for i in range(600)))
    words = ["embed", str(source), "-o", str(tmp_path / "out.npy"), "-m", "small"]
    options = ["--policy", "remote-only", "--base-url", echo.url]
    terminal, line = pty.openpty()
    program = start(*words, *options, stderr=line)
    os.close(line)
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        while True:
            try:
                piece = screen.read(4096)
            except OSError:  # how Linux says that the other side is closed
                break
            if not piece:
                break
            shown += piece
    assert program.wait(60) == 0
    assert b"600 texts" in shown
    assert b"texts/s" in shown
    assert "600 texts · served by huggingface" in shown.decode()


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_the_fake_remote_serves_logs_and_ends(start, tmp_path, run):
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("steps:\n  - status: 402\n    json: {error: no credits}\n")
    program = start(
        *("fake-remote", "--answers", "echo", "--scenario", str(scenario)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with program.stdout as lines:
        url = re.search(r"http://127\.0\.0\.1:\d+", next(lines)).group()
        options = ("-m", "small", "--policy", "remote-only", "--base-url", url)
        assert run("chat", "hi", *options).code == 1
        assert run("chat", "hi", *options).out == "hi\n"
        logged = [next(line for line in lines if line.startswith("POST")) for _ in range(2)]
        assert all("/v1/chat/completions" in line for line in logged)
        assert "model=microsoft/Phi-3-mini-4k-instruct" in logged[0]
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 0


def test_a_wrong_scenario_or_port_exits_2(run, tmp_path, fake_remote_factory):
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("steps:\n  - stauts: 429\n")
    done = run("fake-remote", "--scenario", scenario)
    assert done.code == 2
    assert "unknown key" in done.err
    taken = fake_remote_factory(answers="echo").port
    done = run("fake-remote", "--answers", "echo", "--port", taken)
    assert done.code == 2
    assert f"cannot listen on port {taken}" in done.err
    assert run("fake-remote", "--port", "70000").code == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_a_full_disk_does_not_take_is_a_failure(tmp_path, unbuffered):
    ensure_tiny(load_registry(profile="tiny").resolve("embeddings", "small"))  # before the limit
    source = tmp_path / "in.txt"
    source.write_text("some text\n" * 3000)
    words = ["embed", str(source), "--profile", "tiny", "-m", "small", "--policy", "local-only"]
    command = ["bash", "-c", 'ulimit -f 1000; exec "$0" "$@"', *PROGRAM, *words]
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 1
    assert "error: [Errno 27]" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_ctrl_c_ends_a_run_that_waits_for_more_input(start, tmp_path, form):
    words = ["embed", "-", "-o", str(tmp_path / "out.npy"), "--format", form, "--window", "1"]
    program = start(
        *words,
        *("--profile", "tiny", "-m", "small", "--policy", "local-only"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    line = b"a text\n" if form == "txt" else b'{"text": "a text"}\n'
    program.stdin.write(line)
    program.stdin.flush()
    journal = tmp_path / ".out.npy.parts" / "journal.jsonl"
    patience, until = threading.Event(), time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") == 2):
        assert time.monotonic() < until
        patience.wait(0.02)
    program.send_signal(signal.SIGINT)
    assert program.wait(60) == 130  # with stdin still open
    assert b"Fatal" not in program.stdout.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("OSError(36, 'File name too long')", "[Errno 36] File name too long"),
        ("KeyError('what')", "KeyError('what')"),
    ],
)
def test_whatever_happens_json_is_json(error, message):
    script = (
        "from hybrid_infer import cli\n"
        f"def fail(**_): raise {error}\n"
        "cli.models.options.open_client = fail\n"
        "cli.main(['models', '--json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    told = json.loads(done.stdout)["error"]
    assert (done.returncode, told["exit_code"], told["message"]) == (1, 1, message)
    assert ("Traceback" in done.stderr) is error.startswith("KeyError")  # a fault of ours
