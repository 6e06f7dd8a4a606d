"""Standard streams that are closed, or whose encoding lacks what is printed."""

import io
import json
import os
import subprocess
import sys

import pytest

from hybrid_infer.cli import output, streams

closing = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


@pytest.fixture
def start():
    """Runs a command line as a process, with redirections of a POSIX shell."""

    def start_one(redirections, *words, **variables):
        shell = ["sh", "-c", f'exec "$@" {redirections}', "sh"]
        return subprocess.run(
            [*shell, sys.executable, "-m", "hybrid_infer", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **variables},
        )

    return start_one


@pytest.fixture
def narrow(monkeypatch):
    """Gives stdout an encoding; what was printed is what it returns, called."""

    def set_encoding(encoding, errors="strict"):
        file = io.BytesIO()
        stream = io.TextIOWrapper(file, encoding=encoding, errors=errors, write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        return lambda: file.getvalue().decode(encoding)

    return set_encoding


@closing
def test_a_closed_stdin_is_an_empty_input(start, remotely):
    for words in (["embed"], ["embed", "-"]):
        done = start("<&-", *words, "-m", "small", *remotely)
        assert (done.returncode, done.stdout) == (0, "")
        assert "0 texts" in done.stderr
    for words in (["chat"], ["chat", "-"]):
        done = start("<&-", *words, "-m", "small", *remotely)
        assert done.returncode == 2
        assert done.stderr == "error: the prompt on stdin is empty\n"


@closing
def test_a_closed_stdin_is_an_empty_file_of_rows(start, remotely, tmp_path):
    target = tmp_path / "out.npy"
    done = start("<&-", "embed", "-o", target, "-m", "small", *remotely)
    assert done.returncode == 0
    assert target.exists()


@closing
@pytest.mark.parametrize("more", [(), ("--json",), ("--no-stream",)])
def test_an_answer_that_a_closed_stdout_loses_is_a_failure(start, remotely, more):
    done = start(">&-", "chat", "hi", "-m", "small", *more, *remotely)
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 9] stdout is closed\n"


@closing
def test_a_closed_stdout_is_missed_only_where_something_is_printed(start, remotely, tmp_path):
    source, target = tmp_path / "texts.txt", tmp_path / "out.npy"
    source.write_text("hello\n")
    lost = "error: [Errno 9] stdout is closed\n"
    for words in (["embed", source, "-m", "small", *remotely], ["models"], ["--version"]):
        done = start(">&-", *words)
        assert (done.returncode, done.stderr) == (1, lost)
    done = start(">&-", "embed", source, "-o", target, "-m", "small", *remotely)
    assert done.returncode == 0
    assert target.exists()


@closing
def test_an_error_that_cannot_be_printed_as_json_is_one_line(start, tmp_path):
    done = start(">&-", "embed", tmp_path / "nothing.txt", "--json")
    assert (done.returncode, done.stderr) == (1, "error: [Errno 9] stdout is closed\n")


@closing
def test_a_closed_stderr_changes_nothing(start, remotely, tmp_path):
    done = start("2>&-", "chat", "hi", "-m", "small", *remotely)
    assert (done.returncode, done.stdout) == (0, "hi\n")
    source = tmp_path / "texts.txt"
    source.write_text("hello\n")
    target = tmp_path / "out.npy"
    assert start("2>&-", "embed", source, "-o", target, "-m", "small", *remotely).returncode == 0
    done = start("2>&-", "pull", "embeddings/small", "--json", HF_HUB_OFFLINE="1")
    assert json.loads(done.stdout)["failed"]["embeddings/small"]["exit_code"] == 3


def test_what_a_server_says_about_itself_is_all_that_a_closed_stdout_may_lose(monkeypatch, capsys):
    output.announce("serves on http://127.0.0.1:8080")
    assert capsys.readouterr().out == "serves on http://127.0.0.1:8080\n"
    monkeypatch.setattr(sys, "stdout", None)
    streams.mend()
    output.announce("serves on http://127.0.0.1:8080")
    with sys.stdout, pytest.raises(OSError, match="stdout is closed"):
        print("an answer")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_marks_become_words_where_stdout_lacks_them(run, narrow, encoding):
    printed = narrow(encoding)
    assert run("doctor", "--no-network").code == 1
    assert "  ok python 3." in printed()
    assert "  bad huggingface: none" in printed()
    assert "-> for the remote: set HF_TOKEN" in printed()


def test_marks_stay_where_stdout_has_them(run):
    assert "  ✓ python 3." in run("doctor", "--no-network").out


def test_an_answer_that_stdout_cannot_encode_is_escaped(run, narrow, remotely):
    printed = narrow("ascii")
    done = run("chat", "caf\xe9 \u2713", "-m", "small", *remotely)
    assert (done.code, printed()) == (0, "caf\\xe9 \\u2713\n")


@pytest.mark.parametrize("errors", ["strict", "backslashreplace", "surrogateescape"])
def test_json_stays_json_whatever_stdout_can_encode(narrow, errors):
    printed = narrow("ascii", errors)
    output.print_json({"content": "caf\xe9 \U0001f600"})
    assert json.loads(printed()) == {"content": "caf\xe9 \U0001f600"}
    printed = narrow("utf-8", errors)
    output.print_json(["caf\xe9"])
    assert printed() == '["caf\xe9"]\n'
    printed = narrow("utf-8", errors)
    output.print_json(["half of a pair: \ud83d"])
    assert printed() == '["half of a pair: \\ud83d"]\n'


@pytest.mark.parametrize(
    ("encoding", "errors", "mended"),
    [
        ("ascii", "strict", "backslashreplace"),
        ("ascii", "surrogateescape", "backslashreplace"),
        ("ascii", "replace", "replace"),  # as PYTHONIOENCODING=ascii:replace asks
        ("utf-8", "strict", "backslashreplace"),
        (
            "utf-8",
            "surrogateescape",
            "surrogateescape",
        ),  # names that are not UTF-8 stay as they are
    ],
)
def test_only_an_error_handler_that_breaks_is_replaced(narrow, encoding, errors, mended):
    narrow(encoding, errors)
    streams.mend()
    assert sys.stdout.errors == mended


def test_a_prompt_that_is_no_text_is_a_usage_error(monkeypatch, capsys):
    from hybrid_infer.cli import main

    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(SystemExit) as end:
        main(["chat", "-"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the prompt on stdin is not utf-8 text\n"
