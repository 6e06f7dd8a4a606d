"""The house rules that no linter checks."""

import ast
import re
from pathlib import Path

import pytest

import hybrid_infer

PACKAGE = Path(hybrid_infer.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.parent.rglob("*.py"))
MAX_FILE_LINES = 320
MAX_BODY_LINES = 45


def body_lines(function):
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        if len(function.body) == 1:
            return 0
        first = function.body[1]
    return function.end_lineno - first.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert body_lines(node) <= MAX_BODY_LINES, node.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_debts_are_left_in_the_code(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError", text)
    for handler in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ExceptHandler)):
        caught = ast.unparse(handler.type) if handler.type else ""
        if caught in ("", "Exception", "BaseException"):
            line = text.splitlines()[handler.lineno - 1]
            raises_again = any(isinstance(n, ast.Raise) for n in ast.walk(handler))
            assert "#" in line or raises_again, f"line {handler.lineno} does not say why"


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_tests_never_sleep(file):
    if file != Path(__file__):
        assert not re.search(r"\b(time|asyncio|anyio)\.sleep\(", file.read_text(encoding="utf-8"))
