"""The table itself: whole, every due row proven, every name in it real, and the page up to date."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from fault_table import page, table
from fault_table.callers import scenes
from fault_table.expected import TableError
from fault_table.table import load_table

ROOT = Path(__file__).parents[2]
TABLE = load_table()
IDS = [
    *(f"R{number}" for number in range(1, 32)),
    *(f"L{number}" for number in range(1, 29)),
    *(f"S{number}" for number in range(1, 4)),
]
DUE = [pytest.param(row, id=row.id) for row in TABLE.rows if TABLE.is_due(row)]


def test_every_fault_has_its_row():
    assert [row.id for row in TABLE.rows] == IDS
    assert len(TABLE.pending) + len(DUE) == len(IDS)


@pytest.mark.parametrize("row", DUE)
def test_a_row_that_is_due_is_run_on_every_surface_or_names_its_tests(row):
    if row.id.startswith("R"):
        assert row.variants, "the runner runs what a remote can do"
    if not row.variants:
        assert row.tests
        return
    run = {scene.surface for scene in scenes(TABLE) if scene.variant.row_id == row.id}
    assert run == set(row.surfaces)


@pytest.mark.parametrize("row", [row for row in TABLE.rows if row.tests], ids=lambda row: row.id)
def test_a_named_test_exists(row):
    for name in row.tests:
        path, _, test = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert test in functions, name


def test_what_only_words_tell_is_told():
    assert all(row.outcome for row in TABLE.rows if not row.variants)


def test_the_page_is_the_table():
    assert page.PATH.read_text(encoding="utf-8") == page.page(TABLE), (
        "run scripts/make_fault_docs.py"
    )


ROW = {
    "id": "R1",
    "fault": "words",
    "owner": 3,
    "surfaces": ["sync"],
    "with_local": {"answer": "local"},
    "variants": [{"name": "it"}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surfaces": ["http"]}, "R1: surfaces are sync, async, stream"),
        ({"owner": 9}, "R1: owner 9 has no subject"),
        ({"fault": None}, "R1 needs a fault in words"),
        ({"colour": "red"}, "R1: unknown colour"),
        ({"variants": [{"name": "it", "colour": "red"}]}, "R1: it: unknown colour"),
        ({"variants": [{"name": "it"}] * 2}, "R1 has two variants of one name"),
        ({"place": "moon"}, "R1 it: place moon is none of"),
        ({"counts": "all"}, "R1 it: counts for nothing"),
        ({"with_local": {}}, "R1 it with_local sync: either an answer or an error"),
        ({"with_local": {"error": "NoError"}}, "there is no NoError"),
        ({"with_local": {"answer": "here"}}, "here is none of local"),
        ({"with_local": {"answer": "local", "colour": 1}}, "unknown colour"),
        (
            {"with_local": {"answer": "local", "closed": {"scope": "sea", "seconds": 1}}},
            "sea is none of host",
        ),
    ],
)
def test_what_the_runner_does_not_understand_is_told(tmp_path, change, message):
    document = {"owners_done": [3], "subjects": {3: "routing"}, "rows": [ROW | change]}
    path = tmp_path / "faults.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(TableError, match=message):
        table.load_table(path)
