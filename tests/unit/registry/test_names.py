from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.registry.names import did_you_mean, hub_id_problem, is_alias, shown


@pytest.mark.parametrize(
    "name",
    ["a/b", "microsoft/Phi-3-mini-4k-instruct", "sentence-transformers/all-mpnet-base-v2", "_a/b_"],
)
def test_hub_ids(name):
    assert hub_id_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt2",
        "a/b/c",
        "../etc",
        "a/..",
        "a/.b",
        "-a/b",
        "a/b-",
        "a--b/c",
        "a/b..c",
        "a/b.git",
        "https://x/y",
        "a/b@main",
        "a/b\n",
        "a\\b/c",
        "chat/x",
        "embeddings/x",
        "ä/b",
        "a/" + "b" * 95,
    ],
)
def test_not_hub_ids(name):
    assert hub_id_problem(name)


@given(st.text(alphabet="ab.-_/~\\%:@\n ", max_size=20))
def test_a_hub_id_never_leaves_its_folder(name):
    if hub_id_problem(name) is None:
        org, _, rest = name.partition("/")
        assert ".." not in name
        assert org.strip("._-ab") == rest.strip("._-ab") == ""
        assert org not in ("", ".")
        assert rest not in ("", ".")


def test_aliases():
    assert all(map(is_alias, ["small", "a", "x_1.2-3", "a" * 64]))
    assert not any(map(is_alias, ["", "Small", "a b", "a/b", "a" * 65, "é", ".", "..", "a\n"]))


def test_shown_is_short_quoted_and_keeps_keys_to_itself():
    assert shown("small") == "'small'"
    assert shown("a\nb\x1b[0m") == r"'a\nb\x1b[0m'"
    assert len(shown("x" * 10_000)) < 80
    assert "abcdef" not in shown("hf_abcdefghijklmnopqrstuv")
    assert "abcdef" not in shown("my key is sk-proj-abcdefghijklmnop")


def test_did_you_mean():
    assert did_you_mean("SMAL", ["small", "large"]) == "; did you mean 'small'?"
    assert did_you_mean("zzz", ["small", "large"]) == ""
    assert did_you_mean("small", []) == ""
