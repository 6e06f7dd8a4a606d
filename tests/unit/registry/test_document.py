from __future__ import annotations

from typing import Any

import pytest

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.document import document_from_mapping, dotted, within


def test_a_mapping_comes_back_as_it_was():
    mapping = {"a": {"b": [1, 2.5, "x", None, True, (3,)]}}
    expected = {"a": {"b": [1, 2.5, "x", None, True, [3]]}}
    assert document_from_mapping("models", mapping).root.plain() == expected


def test_what_yaml_could_not_hold_is_refused():
    for value in (b"x", {1, 2}, object(), 1j, float):
        with pytest.raises(ConfigError, match=r"^models: a\[0\] is a \w+; only mappings"):
            document_from_mapping("models", {"a": [value]})
    with pytest.raises(ConfigError, match=r"^models: a key in a is not text$"):
        document_from_mapping("models", {"a": {1: 2}})
    with pytest.raises(ConfigError, match="surrogate"):
        document_from_mapping("models", {"a": "\ud800"})
    with pytest.raises(ConfigError, match="a key at the top level is not valid text"):
        document_from_mapping("models", {"\ud800": 1})
    with pytest.raises(ConfigError, match="too large"):
        document_from_mapping("models", {"a": 10**400})


def test_a_mapping_that_holds_itself_is_refused():
    mapping: dict[str, Any] = {}
    mapping["a"] = mapping
    with pytest.raises(ConfigError, match="nested more than 10 levels"):
        document_from_mapping("models", mapping)


def test_a_shared_list_cannot_grow_without_bound():
    value: Any = ["x"] * 10
    for _ in range(8):
        value = [value] * 10
    with pytest.raises(ConfigError, match="more than 10,000 values"):
        document_from_mapping("models", {"a": value})


def test_paths():
    assert dotted(("remotes", 0, "name")) == "remotes[0].name"
    assert dotted(("a", "b c")) == "a.'b c'"
    assert within(()) == "at the top level"
    assert "abcdef" not in dotted(("a", "hf_abcdefghijklmnopqrstuv"))
