"""What is read, and what is refused rather than misread."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybrid_infer.bulk import open_source
from hybrid_infer.errors import BulkDataError


@pytest.fixture
def texts_in(tmp_path):
    """The texts that a file of these bytes has."""

    def read(name, content):
        (tmp_path / name).write_bytes(content)
        return [row.text for row in open_source(str(tmp_path / name)).rows()]

    return read


def test_a_csv_field_of_any_length_is_one_field(texts_in, tmp_path):
    long = "a line, with a comma\n" * 8000
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], ["short"], [long], ["end"]])
    assert texts_in("in.csv", (tmp_path / "in.csv").read_bytes()) == ["short", long, "end"]


def test_a_quote_that_nobody_closes_swallows_no_rows(embed_file, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('id,text\n1,"abc\n2,b\n3,c\n')
    with pytest.raises(BulkDataError, match=r"in\.csv:2: not CSV, down to line 4: unexpected end"):
        embed_file(path, "out.npy", on_error="skip")


def test_a_line_that_is_no_csv_is_a_bad_row_of_its_own(embed_file, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('id,text\n1,"a"b\n2,c\n3,"d')
    summary = embed_file(path, "out.npy", on_error="skip")
    listed = [json.loads(line) for line in summary.errors.read_text().splitlines()]
    assert [row["line"] for row in listed] == [2, 4]
    assert all(row["error"].startswith("not CSV: ") for row in listed)
    assert summary.texts == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id\rtext\r1\rx\r", "its first line is not CSV"),
        (b"text,caf\xe9\na,b\n", "its first line is not UTF-8"),
        (b'"text\na\n', "its first line is not CSV"),
    ],
)
def test_a_first_line_that_names_no_columns(texts_in, content, told):
    with pytest.raises(BulkDataError, match=f"in.csv: {told}"):
        texts_in("in.csv", content)


def test_only_newlines_end_a_line_and_a_mark_of_byte_order_is_no_text(texts_in):
    assert texts_in("in.txt", b"\xef\xbb\xbfone\rtwo\nthree\r\n") == ["one\rtwo", "three"]


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(BulkDataError, match="there is no such file; to embed a text itself"):
        open_source("a text, not a file " * 40)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.errors.jsonl"])
def test_what_is_read_is_never_written_over(embed_file, tmp_path, name):
    content = '{"text": "a"}\n{"note": "important"}\n'
    (tmp_path / name).write_text(content)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / name)
    with pytest.raises(BulkDataError, match="is read here"):
        embed_file(tmp_path / "link.jsonl", "out.jsonl", on_error="skip")
    assert (tmp_path / name).read_text() == content


def test_what_is_no_file_is_not_replaced(embed_file, jsonl, tmp_path):
    (tmp_path / "out.npy").mkdir()
    with pytest.raises(BulkDataError, match="is no file that can be replaced"):
        embed_file(jsonl, "out.npy")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (r'{"text": "a", "x": "\ud800"}', "do not make a table"),
        ('{"text": "a", "x": 123456789012345678901234567890}', "do not make a table"),
        ('{"text": "a", "x": {}}', "Parquet cannot hold the columns; JSONL can"),
    ],
)
def test_what_parquet_cannot_hold(embed_file, tmp_path, line, told):
    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(BulkDataError, match=told):
        embed_file(tmp_path / "in.jsonl", "out.parquet")
    assert embed_file(tmp_path / "in.jsonl", "out.jsonl").texts == 1


def test_a_type_that_cannot_hold_the_rows_before_is_refused_at_once(embed_file, tmp_path):
    rows = [{"text": "a", "x": 2**53 + 1}, {"text": "b", "x": 1.5}, {"text": "c", "x": 1.5}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BulkDataError, match="types that do not agree") as caught:
        embed_file(tmp_path / "in.jsonl", "out.parquet", window_texts=1)
    assert caught.value.__notes__ == ["1 windows are kept: the same command goes on"]


def test_an_integer_that_a_float_is_becomes_one(embed_file, tmp_path):
    rows = [{"text": "a", "x": 2**53}, {"text": "b", "x": 1.5}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed_file(tmp_path / "in.jsonl", "out.parquet", window_texts=1)
    assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == [2.0**53, 1.5]


def test_two_parquet_columns_of_one_name(embed_file, tmp_path):
    table = pa.table([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["text", "y", "y"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(BulkDataError, match="two columns of one name, among text, y, y"):
        embed_file(tmp_path / "in.parquet", "out.npy")


def test_a_damaged_page_of_parquet(embed_file, tmp_path):
    table = pa.table({"text": [f"text {i} {hash(str(i))}" for i in range(20_000)]})
    pq.write_table(table, tmp_path / "in.parquet")
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    content[1000:3000] = bytes(2000)
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(BulkDataError, match=r"in\.parquet: "):
        embed_file(tmp_path / "in.parquet", "out.npy", on_error="skip", window_texts=8192)


def test_numbers_that_json_has_no_word_for_are_null(embed_file, tmp_path):
    table = pa.table({
        "text": ["a"],
        "x": [float("nan")],
        "y": [[1.5, float("inf")]],
        "z": [{"deep": float("-inf"), "name": "n"}],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    embed_file(tmp_path / "in.parquet", "out.jsonl")

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert np.isfinite(row.pop("embedding")).all()
    assert row == {"text": "a", "x": None, "y": [1.5, None], "z": {"deep": None, "name": "n"}}
