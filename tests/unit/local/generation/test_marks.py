"""What a template writes and what a user writes, told apart."""

import pytest

from hybrid_infer.local.generation.marks import Mark, Marks


@pytest.fixture
def marks():
    return Marks(
        [Mark("<a>", 1, takes_left=True, takes_right=True), Mark("<b>", 2, takes_left=True)]
    )


def test_a_mark_takes_its_blanks_and_only_once(marks):
    (text,), originals = marks.hidden(["one <b> two"])
    rendered = f"  <a>  <b>{text}  <b>"
    assert marks.parts(rendered, originals) == [
        ("  <a>  <b>", False),
        ("one <b> two", True),
        ("  <b>", False),
    ]


def test_many_blanks_cost_no_more_than_they_are(marks):
    blanks = " \n" * 250_000
    (text,), originals = marks.hidden([f"{blanks}<b>{blanks}end"])
    assert marks.parts(f"<a>{text}<a>", originals) == [
        ("<a>" + blanks, False),
        (f"<b>{blanks}end", True),
        ("<a>", False),
    ]
