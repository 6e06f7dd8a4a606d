"""The public names: one table, each documented."""

import ast
import inspect
from pathlib import Path

import pytest

import hybrid_infer

SOURCE = Path(hybrid_infer.__file__)


def test_static_and_lazy_exports_are_the_same():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    static = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert static == hybrid_infer._EXPORTS


@pytest.mark.parametrize("name", [n for n in hybrid_infer.__all__ if n != "__version__"])
def test_every_public_name_is_documented(name):
    value = getattr(hybrid_infer, name)
    assert inspect.getdoc(value), name
    for method_name, method in vars(value).items():
        if inspect.isfunction(method) and not method_name.startswith("_"):
            assert inspect.getdoc(method), f"{name}.{method_name}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = hybrid_infer.Nope
