"""Real texts that every machine has: docstrings of Python's standard library, read, not imported."""

from __future__ import annotations

import ast
import importlib.machinery
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

SHORTEST, LONGEST = 40, 240


def docstring_texts(count: int) -> list[str]:
    """The first `count` distinct first paragraphs of documented functions, classes and modules.

    They are taken from modules in alphabetical order, at most 12 from each so that many topics
    appear, and are 40 to 240 characters long.
    """
    texts: dict[str, None] = {}
    for path in _module_files():
        taken = 0
        for text in _first_paragraphs(path):
            if taken < 12 and text not in texts:  # noqa: PLR2004 - explained in the docstring
                texts[text] = None
                taken += 1
            if len(texts) == count:
                return list(texts)
    return list(texts)


def _module_files() -> Iterator[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    suffix = importlib.machinery.SOURCE_SUFFIXES[0]
    for name in sorted(sys.stdlib_module_names):
        path = folder / f"{name}{suffix}"
        if not name.startswith("_") and path.is_file():
            yield path


def _first_paragraphs(path: Path) -> Iterator[str]:
    try:
        with tokenize.open(path) as stream:
            tree = ast.parse(stream.read())
    except (OSError, SyntaxError, UnicodeDecodeError):  # an odd installation: go on without it
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
            text = re.sub(r"\s+", " ", paragraph).strip()
            if SHORTEST <= len(text) <= LONGEST:
                yield text
