import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hybrid_infer.testing import EchoAnswers

REPO = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def small(remotely):
    return ("--model", "small", *remotely)


def expected(*texts):
    return EchoAnswers().embed(REPO, texts, normalize=True, truncate=True)


def test_a_vector_a_line_for_a_text_a_line(run, small):
    done = run("embed", "-", *small, stdin="hello\n\nthere")
    vectors = np.array([json.loads(line) for line in done.out.splitlines()], np.float32)
    assert done.code == 0
    assert np.allclose(vectors, expected("hello", "", "there"), atol=1e-6)
    assert done.err.startswith("3 texts · served by huggingface")


def test_stdin_needs_no_dash(run, small):
    assert run("embed", *small, stdin="hello\n").out.count("\n") == 1


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_a_file_is_embedded_in_windows_into_a_file(run, small, tmp_path, suffix, echo):
    texts = [f"text {i}" for i in range(10)]
    source, target = tmp_path / "texts.txt", tmp_path / f"vectors{suffix}"
    source.write_text("\n".join(texts) + "\n")
    done = run("embed", source, "-o", target, "--window", "4", *small)
    assert (done.code, done.out) == (0, "")
    if suffix == ".npy":
        vectors = np.load(target)
    else:
        vectors = np.array([json.loads(line) for line in target.read_text().splitlines()])
    assert np.allclose(vectors, expected(*texts), atol=1e-6)
    assert len(echo.ledger) == 3


def test_json_holds_vectors_space_and_who_served(run, small):
    done = run("embed", "-", "--json", *small, stdin="hello\n")
    found = json.loads(done.out)
    assert np.allclose(found["vectors"], expected("hello"), atol=1e-6)
    assert found["space"]["repo"] == REPO
    assert found["served"] == {"huggingface": 1}
    assert found["texts"] == 1


def test_json_with_a_file_leaves_the_vectors_in_the_file(run, small, tmp_path):
    target = tmp_path / "out.npy"
    found = json.loads(run("embed", "-", "--json", "-o", target, *small, stdin="x").out)
    assert "vectors" not in found
    assert np.load(target).shape == (1, 384)


def test_no_normalize_is_passed_on(run, small, echo):
    run("embed", "-", "--no-normalize", *small, stdin="x\n")
    assert echo.ledger[-1].body_json["normalize"] is False


def test_no_texts_give_an_empty_array(run, small, tmp_path, echo):
    target = tmp_path / "out.npy"
    assert run("embed", "-", "-o", target, *small, stdin="").code == 0
    assert np.load(target).shape == (0, 384)
    assert echo.ledger == []


def test_the_tiny_profile_needs_no_remote(run):
    done = run("embed", "-", "--profile", "tiny", "-m", "small", stdin="hello\n")
    assert done.code == 0
    assert len(json.loads(done.out)) == 384
    assert "the local copy (tiny/all-MiniLM-L6-v2" in done.err


def test_what_cannot_be_read_or_written_exits_2(run, small, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9\n")
    for words, part in (
        ([tmp_path / "nothing.txt"], "echo text | hybrid-infer embed -"),
        ([latin], "not UTF-8"),
        ([tmp_path], "directory"),
        ([], "no input"),
    ):
        done = run("embed", *words, *small)
        assert done.code == 2
        assert part in done.err
    for target in (tmp_path / "out.csv", tmp_path / "nowhere" / "out.npy"):
        done = run("embed", "-", "-o", target, *small, stdin="x")
        assert done.code == 2
        assert str(target) in done.err.replace("\n", "")


def test_with_json_too_a_file_that_is_not_there_is_named_first(run, small, tmp_path):
    done = run("embed", tmp_path / "nothing.txt", "--json", *small)
    assert done.code == 2
    assert "nothing.txt: there is no such file" in json.loads(done.out)["error"]["message"]
    (tmp_path / "rows.csv").write_text("text\nhello\n")
    done = run("embed", tmp_path / "rows.csv", "--json", *small)
    assert done.code == 2
    assert "needs --output" in json.loads(done.out)["error"]["message"]


def test_a_failure_half_way_leaves_no_file(run, small, tmp_path, echo):
    target = tmp_path / "out.jsonl"
    echo.respond_with(lambda _request: None if len(echo.ledger) < 2 else unauthorised())
    done = run("embed", "-", "-o", target, "--window", "1", *small, stdin="a\nb\nc\n")
    assert done.code == 1
    assert list(tmp_path.iterdir()) == []


def unauthorised():
    from hybrid_infer.testing import Reply

    return Reply(status=401, json={"error": "Invalid username or password."})


def test_every_path_sees_the_same_lines(run, tmp_path):
    content = "\ufeffone\rtwo\nthr\u00e9e\r\n"
    (tmp_path / "in.txt").write_bytes(content.encode())
    target = tmp_path / "out.jsonl"
    words = ("-q", "--profile", "tiny", "-m", "small", "--policy", "local-only")
    assert run("embed", tmp_path / "in.txt", "-o", target, *words).code == 0
    lines = target.read_text()
    assert lines.count("\n") == 2
    assert run("embed", tmp_path / "in.txt", *words).out == lines
    assert run("embed", "-", *words, stdin=content).out == lines


def test_stdin_is_utf_8_whatever_the_locale_says(run):
    words = ["-q", "--profile", "tiny", "-m", "small", "--policy", "local-only"]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_infer", "embed", "-", *words],
        input="caf\u00e9\n".encode(),
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.stdout.decode() == run("embed", "-", *words, stdin="caf\u00e9\n").out
