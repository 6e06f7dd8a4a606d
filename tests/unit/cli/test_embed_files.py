import io
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from hybrid_infer.cli import main

TINY = ("--profile", "tiny", "-m", "small", "--policy", "local-only")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "in.jsonl"
    lines = (json.dumps({"id": i, "body": f"text {i}"}) + "\n" for i in range(10))
    path.write_text("".join(lines))
    return path


def test_a_file_becomes_a_file_with_its_columns(run, rows, tmp_path):
    target = tmp_path / "out.parquet"
    done = run("embed", rows, "-o", target, "--column", "body", "--window", "4", *TINY)
    assert (done.code, done.out) == (0, "")
    assert pq.read_table(target).column_names == ["id", "body", "embedding"]
    assert done.err.startswith("10 texts · ")
    assert "served by local (10 in 3 windows)" in done.err


def test_json_says_what_was_done(run, rows, tmp_path):
    target = tmp_path / "out.npy"
    done = run("embed", rows, "-o", target, "--column", "body", "--json", *TINY)
    found = json.loads(done.out)
    assert (found["texts"], found["served"], found["space"]["dim"]) == (10, {"local": 10}, 384)
    assert np.load(target).shape == (10, 384)


def test_without_output_rows_with_their_vectors_go_to_stdout(run, rows):
    done = run("embed", rows, "--column", "body", *TINY)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in found] == list(range(10))
    assert len(found[0]["embedding"]) == 384


def test_stdin_may_hold_rows_and_leaves_nothing_behind(run, rows, tmp_path):
    target = tmp_path / "out.jsonl"
    words = ("--format", "jsonl", "--column", "body", *TINY)
    assert run("embed", "-", "-o", target, *words, stdin=rows.read_text()).code == 0
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == list(range(10))
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}
    done = run("embed", "-", *words, stdin=rows.read_text())
    assert len(done.out.splitlines()) == 10


def test_quiet_says_nothing(run, rows, tmp_path):
    done = run("embed", rows, "-o", tmp_path / "o.npy", "--column", "body", "-q", *TINY)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_bad_rows_are_counted_and_named(run, rows, tmp_path):
    with rows.open("a") as stream:
        stream.write('{"body": 1}\n')
    words = ("embed", rows, "-o", tmp_path / "o.npy", "--column", "body", *TINY)
    done = run(*words, "--window", "4")
    assert done.code == 2
    assert "in.jsonl:11: the text must be a str, not int" in done.err
    assert "2 windows are kept" in done.err
    done = run(*words, "--window", "4", "--on-error", "skip")
    assert done.code == 0
    assert "1 bad rows listed in" in done.err
    assert "2 windows were done before" in done.err


def test_what_belongs_to_another_run_is_refused(run, rows, tmp_path):
    with rows.open("a") as stream:
        stream.write('{"body": 1}\n')
    words = ("embed", rows, "-o", tmp_path / "o.npy", "--column", "body", *TINY)
    assert run(*words, "--window", "4").code == 2
    done = run(*words, "--window", "5")
    assert done.code == 2
    assert "different options; --restart starts over" in done.err
    assert run(*words, "--window", "5", "--restart", "--on-error", "skip").code == 0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--json",), "needs --output"),
        (("--on-error", "skip"), "give one"),
        (("--format", "xml"), "xml"),
        (("--window", "0"), "--window"),
        (("-o", "out.txt"), ".npy, .jsonl or .parquet"),
    ],
)
def test_options_that_do_not_go_together(run, rows, words, part):
    done = run("embed", rows, "--column", "body", *words, *TINY)
    assert done.code == 2
    assert part in done.err + done.out


def test_a_bar_is_drawn_where_somebody_looks(rows, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    words = ["embed", str(rows), "-o", str(tmp_path / "o.npy"), "--column", "body", *TINY]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code
    assert "texts/s" in shown.getvalue()


def test_a_missing_package_exits_3(run, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = run("embed", rows, "-o", tmp_path / "o.parquet", "--column", "body", *TINY)
    assert done.code == 3
    assert 'pip install "hybrid-infer[data]"' in done.err


def test_a_limited_remote_leaves_the_rest_to_the_local_copy(
    run, rows, tmp_path, fake_remote_factory
):
    from hybrid_infer.testing import Reply

    remote = fake_remote_factory(answers="tiny")
    limited = Reply(status=429, json={"error": "slow down"}, headers={"Retry-After": "600"})
    # One window, the texts of verify, and one more window are answered.
    remote.respond_with(lambda _request: limited if len(remote.ledger) > 3 else None)
    target = tmp_path / "out.parquet"
    words = ("--profile", "tiny", "-m", "small", "--base-url", remote.url, "--window", "2")
    done = run("embed", rows, "-o", target, "--column", "body", *words)
    assert done.code == 0, done.err
    about = json.loads(pq.ParquetFile(target).metadata.metadata[b"hybrid_infer"])
    servers = [group["served_by"] for group in about["row_groups"]]
    assert servers[0] == "huggingface"
    assert servers[-1] == "local"
    assert sorted(servers) == servers
    assert "served by huggingface (" in done.err
    assert ", local (" in done.err


@pytest.mark.parametrize("pattern", ["*", "*.json*", "*.jsonl"])
def test_a_pattern_reads_its_files_as_what_they_are(run, rows, tmp_path, pattern):
    target = tmp_path / "out" / "o.jsonl"
    target.parent.mkdir()
    done = run("embed", tmp_path / pattern, "-o", target, "--column", "body", "-q", *TINY)
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == list(range(10))


def test_a_suffix_means_the_same_in_capitals(run, tmp_path):
    (tmp_path / "IN.CSV").write_text("text\nhello\nworld\n")
    done = run("embed", tmp_path / "IN.CSV", "-q", *TINY)
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["hello", "world"]


def test_a_text_in_place_of_a_file_is_told_how_to_be_one(run):
    done = run("embed", "a text of many words " * 30, "--json", *TINY)
    assert done.code == 2
    assert "echo text | hybrid-infer embed -" in json.loads(done.out)["error"]["message"]
