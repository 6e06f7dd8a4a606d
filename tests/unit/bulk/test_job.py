import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybrid_infer.bulk import BulkOptions, embed_to_file, job, open_source
from hybrid_infer.errors import BulkDataError, CheckpointError


def vectors_in(path):
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
        return np.array(table["embedding"].to_pylist(), np.float32)
    return np.array(
        [json.loads(line)["embedding"] for line in path.read_text().splitlines()], np.float32
    )


def test_a_file_that_has_gone_meanwhile_is_an_error_of_the_input(jsonl):
    source = open_source(str(jsonl))
    jsonl.unlink()
    with pytest.raises(BulkDataError, match=r"in\.jsonl: No such file"):
        source.identity()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_json_cannot_hold_is_a_bad_row(tmp_path, number):
    file = tmp_path / "in.jsonl"
    file.write_text(f'\ufeff{{"text": "a", "n": 1.5}}\n{{"text": "b", "n": [{number}]}}\n', "utf-8")
    good, bad = open_source(str(file)).rows()
    assert (good.record, good.problem) == ({"text": "a", "n": 1.5}, "")
    assert bad.problem.startswith("not JSON: ")


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet"])
def test_rows_keep_their_order_and_their_columns(embed_file, tiny, jsonl, tmp_path, texts, suffix):
    summary = embed_file(jsonl, f"out.{suffix}")
    found = vectors_in(tmp_path / f"out.{suffix}")
    windows = [tiny.embed(texts[i : i + 8], "small").vectors for i in range(0, 50, 8)]
    assert np.array_equal(found, np.concatenate(windows))
    assert (summary.texts, summary.windows, summary.bad_rows) == (50, {"local": 7}, 0)
    assert summary.prompt_tokens > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", f"out.{suffix}"]
    if suffix == "parquet":
        assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == list(range(50))
    if suffix == "jsonl":
        assert [
            json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()
        ] == texts


def test_parquet_has_a_row_group_a_window_and_says_who_served_it(embed_file, jsonl, tmp_path):
    embed_file(jsonl, "out.parquet")
    footer = pq.ParquetFile(tmp_path / "out.parquet").metadata
    about = json.loads(footer.metadata[b"hybrid_infer"])
    sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    assert sizes == [8] * 6 + [2] == [group["rows"] for group in about["row_groups"]]
    assert {group["served_by"] for group in about["row_groups"]} == {"local"}
    assert about["space"]["dim"] == 384


def test_every_format_is_read_alike(embed_file, jsonl, tmp_path, texts):
    (tmp_path / "in.txt").write_text("".join(text + "\n" for text in texts))
    lines = "".join(f'{i},"{text}"\r\n' for i, text in enumerate(texts))
    (tmp_path / "in.csv").write_text("\ufeffid,text\n" + lines)
    pq.write_table(pa.table({"text": texts, "id": range(50)}), tmp_path / "in.parquet")
    found = []
    for suffix in ("txt", "csv", "parquet", "jsonl"):
        embed_file(tmp_path / f"in.{suffix}", f"{suffix}.npy")
        found.append((tmp_path / f"{suffix}.npy").read_bytes())
    assert set(found) == {found[0]}


def test_a_pattern_is_its_files_in_order_and_another_column_may_be_named(embed_file, tmp_path):
    for name, word in (("b", "second"), ("a", "first")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"body": word}) + "\n")
    embed_file(tmp_path / "*.jsonl", "out.parquet", column="body")
    assert pq.read_table(tmp_path / "out.parquet")["body"].to_pylist() == ["first", "second"]


def test_arrow_types_come_through(embed_file, tmp_path):
    table = pa.table({
        "text": ["a", "b", None],
        "when": pa.array([1, 2, 3], pa.timestamp("ns")),
        "tags": [["x"], [], None],
        "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    embed_file(tmp_path / "in.parquet", "out.parquet", on_error="skip")
    assert pq.read_table(tmp_path / "out.parquet").drop(["embedding"]).equals(table.slice(0, 2))


def test_columns_that_come_later_are_null_before(embed_file, tmp_path):
    rows = [{"text": f"t{i}"} | ({"score": i / 2} if i > 20 else {}) for i in range(30)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed_file(path, "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["score"].to_pylist() == [
        row.get("score") for row in rows
    ]


BAD = [
    (b'{"text": 5}', "must be a str, not int"),
    (b'{"other": "x"}', "no column 'text'"),
    (b'["text"]', "not a JSON object"),
    (b'{"text": "x"', "not JSON"),
    (b'{"text": "caf\xe9"}', "not JSON"),
    (b'{"text": "\\ud800"}', "lone surrogate"),
    (b'{"text": "x", "embedding": 1}', "already"),
]


def test_bad_rows_go_to_a_side_file_with_their_lines(embed_file, tmp_path):
    path = tmp_path / "in.jsonl"
    good = b'{"text": "good"}'
    path.write_bytes(b"".join(good + b"\n" + bad + b"\n" for bad, _ in BAD))
    summary = embed_file(path, "out.jsonl", on_error="skip", window_texts=3)
    listed = [
        json.loads(line) for line in (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()
    ]
    assert (summary.texts, summary.bad_rows) == (len(BAD), len(BAD))
    assert summary.errors == tmp_path / "out.jsonl.errors.jsonl"
    for index, (row, (_, problem)) in enumerate(zip(listed, BAD, strict=True)):
        assert (row["file"], row["line"]) == ("in.jsonl", 2 * index + 2)
        assert problem in row["error"]


def test_a_bad_row_ends_the_run_and_names_its_line_and_skip_goes_on(embed_file, jsonl, tmp_path):
    with jsonl.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(BulkDataError, match=r"in\.jsonl:51: no column 'text'.*--on-error skip"):
        embed_file(jsonl, "out.npy")
    assert not (tmp_path / "out.npy").exists()
    summary = embed_file(jsonl, "out.npy", on_error="skip")
    assert (summary.resumed_windows, summary.texts, summary.bad_rows) == (6, 50, 1)


def test_over_long_texts_are_bad_rows_without_truncation(embed_file, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("short\n" + "long " * 2000 + "\nshort too\n" + "long " * 400 + "\n")
    assert embed_file(path, "cut.npy").truncations == 2
    summary = embed_file(path, "out.npy", truncate=False, on_error="skip")
    lines = [json.loads(line)["line"] for line in summary.errors.read_text().splitlines()]
    assert (lines, summary.texts, np.load(tmp_path / "out.npy").shape) == ([2, 4], 2, (2, 384))


@pytest.mark.parametrize("line", ['1,"caf\udce9"', "1", "1,2,3"])
def test_bad_lines_of_csv(embed_file, tmp_path, line):
    path = tmp_path / "in.csv"
    path.write_bytes(f"id,text\n0,good\n{line}\n2,fine\n".encode("utf-8", "surrogateescape"))
    summary = embed_file(path, "out.npy", on_error="skip")
    assert (summary.texts, json.loads(summary.errors.read_text())["line"]) == (2, 3)


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet"])
def test_nothing_to_embed_is_an_empty_file(embed_file, tmp_path, suffix):
    (tmp_path / "in.jsonl").write_text("")
    embed_file(tmp_path / "in.jsonl", f"out.{suffix}")
    output = tmp_path / f"out.{suffix}"
    if suffix == "npy":
        assert np.load(output).shape == (0, 384)
    elif suffix == "parquet":
        assert pq.read_table(output).num_rows == 0
    else:
        assert output.read_bytes() == b""


def test_types_that_do_not_agree_are_said_at_once(embed_file, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a", "x": 1}\n{"text": "b", "x": "one"}\n')
    with pytest.raises(BulkDataError, match=r"JSONL can hold them|do not make a table"):
        embed_file(path, "out.parquet")
    assert embed_file(path, "out.jsonl").texts == 2


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("in.csv", "id,body\n", "'text'"),
        ("in.csv", "text,embedding\n", "'embedding' not"),
        ("in.parquet", "no parquet", "in.parquet"),
        ("in.xml", "<a/>", "--format"),
    ],
)
def test_inputs_that_cannot_be_used(embed_file, tmp_path, name, content, part):
    (tmp_path / name).write_text(content)
    with pytest.raises(BulkDataError, match=part):
        embed_file(tmp_path / name, "out.npy")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_one_output_has_one_writer(embed_file, jsonl, tmp_path):
    held = job.Checkpoint(tmp_path / "out.npy", {}, restart=False)
    with pytest.raises(CheckpointError, match="another process"):
        embed_file(jsonl, "out.npy")
    held.close()


def test_an_input_that_changes_meanwhile_is_noticed(tiny, jsonl, tmp_path):
    def change(_texts, _position):
        jsonl.touch()

    options = BulkOptions(model="small", window_texts=8)
    with pytest.raises(CheckpointError, match="was changed while"):
        embed_to_file(
            tiny, open_source(str(jsonl)), tmp_path / "out.npy", options, on_progress=change
        )


def test_where_nothing_can_be_written(embed_file, jsonl):
    with pytest.raises(BulkDataError, match=r"nowhere/out\.npy: No such file"):
        embed_file(jsonl, "nowhere/out.npy")
    with pytest.raises(BulkDataError, match=r"must end in \.npy, \.jsonl or \.parquet"):
        embed_file(jsonl, "out.csv")


def test_without_pyarrow_the_extra_is_named():
    code = """
import sys
sys.modules["pyarrow"] = None  # as if it were not installed
from hybrid_infer.bulk import arrow
from hybrid_infer.errors import MissingExtraError
try:
    arrow.check_installed()
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "hybrid-infer[data]"' in done.stdout
