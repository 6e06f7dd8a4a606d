"""Every block of the documentation runs as it is written: on the tiny profile, with a remote on loopback.

A block that cannot run here says so in its first line, ``# Not tested: …``, and is counted below.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from hybrid_infer.registry import load_registry
from hybrid_infer.testing import load_scenario

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
NOT_TESTED = {
    "README.md": 2,
    "adapters.md": 1,
    "chat.md": 1,
    "cli.md": 2,
    "gguf.md": 2,
    "migration.md": 3,
    "offline.md": 3,
    "quickstart-app.md": 1,
    "quickstart-offline.md": 3,
    "remotes.md": 1,
    "scaling.md": 4,
    "server.md": 1,
    "testing.md": 3,
}
RUN = ("python", "bash", "yaml")
SHOWN = ("text", "javascript")
BASH = shutil.which("bash")
DOCUMENTED_PORT = "8080"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_TESTED = re.compile(r"# Not tested: \S.*\.")
_SERVES = re.compile(r"(\w+=\S+ )*hybrid-infer (serve|fake-remote)\b")


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, what it holds, and whether it says that it cannot run."""

    page: str
    number: int
    language: str
    text: str

    @property
    def is_tested(self):
        return self.language in RUN and not _NOT_TESTED.fullmatch(self.text.partition("\n")[0])


def blocks_of(name):
    found = _FENCE.findall(PAGES[name].read_text(encoding="utf-8"))
    return [Block(name, number, *pair) for number, pair in enumerate(found)]


ALL = [block for name in PAGES for block in blocks_of(name)]
TESTED = sorted({block.page for block in ALL if block.is_tested})


class Reader:
    """Does what a page says, from its first block to its last, in a folder of its own."""

    def __init__(self, stack, folder, fixtures):
        self._stack, self._folder, self._fixtures = stack, folder, fixtures
        self._names = {"__name__": "page"}
        self._port = DOCUMENTED_PORT
        self._program = None

    def does(self, block):
        text = block.text.replace(DOCUMENTED_PORT, self._port)
        getattr(self, "_" + block.language)(text, f"{block.page}, block {block.number}")

    def _python(self, text, name):
        known = set(self._names)
        exec(compile(text, name, "exec"), self._names)  # noqa: S102 - our own
        for test in sorted(self._names.keys() - known):
            if test.startswith("test_"):
                code = self._names[test].__code__
                wanted = code.co_varnames[: code.co_argcount]
                self._names[test](*(self._fixtures(fixture) for fixture in wanted))

    def _bash(self, text, name):
        if _SERVES.match(text):
            (command,) = text.splitlines()
            self._serve(command.partition("  #")[0])
            return
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", text],
            cwd=self._folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}:\n{text}\n{done.stdout}\n{done.stderr}"

    def _serve(self, command):
        """Start what serves on a free port, in place of the one that the page names."""
        self.close()
        command = f"exec env {re.sub(' --port [0-9]+', '', command)} --port 0"
        self._program = self._stack.enter_context(
            subprocess.Popen(
                [BASH, "-c", command], cwd=self._folder, stdout=subprocess.PIPE, text=True
            )
        )
        self._stack.callback(self.close)
        self._port = re.search(r"http://[\d.]+:(\d+)", self._program.stdout.readline())[1]

    def _yaml(self, text, name):
        document = yaml.safe_load(text)
        if "steps" in document:
            file = self._folder / "scenario.yaml"
            file.write_text(text, encoding="utf-8")
            load_scenario(file)
        elif "jobs" not in document:
            file = self._folder / "models.yaml"
            file.write_text(text, encoding="utf-8")
            assert load_registry(file, environ={}), name

    def close(self):
        if self._program is not None:
            self._program.kill()
            self._program = None

    def leave(self):
        """Close what a page's Python has left open, as a program's end would."""
        for value in self._names.values():
            close = getattr(value, "close", None)
            if callable(close) and not isinstance(value, type | ModuleType):
                close()


@pytest.fixture
def reader(request, tmp_path, monkeypatch, fake_remote_factory, own_globals):
    remotes = [{"name": "huggingface", "dialect": "hf-router"}]
    remotes[0]["base_url"] = fake_remote_factory(answers="tiny").url
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"remotes": remotes}), encoding="utf-8")
    for name in ("notes.txt", "corpus.txt"):
        (tmp_path / name).write_text("a text\nanother one\n", encoding="utf-8")
    (tmp_path / "scenario.yaml").write_text("steps: [{times: forever, healthy: true}]\n")
    monkeypatch.setenv("HYBRID_INFER_MODELS", str(own))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        made = Reader(stack, tmp_path, request.getfixturevalue)
        yield made
        made.leave()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TESTED)
def test_a_page_runs_from_top_to_bottom(name, reader):
    for block in blocks_of(name):
        if block.is_tested:
            reader.does(block)


def test_every_block_has_a_language_that_is_run_or_meant_to_be_seen_only():
    assert [block for block in ALL if block.language not in RUN + SHOWN] == []


def test_what_cannot_run_is_counted():
    counted = {}
    for block in ALL:
        if block.language in RUN and not block.is_tested:
            counted[block.page] = counted.get(block.page, 0) + 1
    assert counted == NOT_TESTED
    assert sum(block.is_tested for block in ALL) >= 50


@pytest.mark.parametrize(
    "block",
    [block for block in ALL if block.language in RUN and not block.is_tested],
    ids=lambda block: f"{block.page}-{block.number}",
)
def test_what_cannot_run_is_at_least_well_formed(block):
    if block.language == "python":
        compile(block.text, block.page, "exec")
    elif block.language == "bash":
        subprocess.run([BASH, "-n", "-c", block.text], check=True)


def test_every_metric_is_documented():
    from prometheus_client import CollectorRegistry

    from hybrid_infer.observers.prometheus import PrometheusObserver

    registry = CollectorRegistry()
    PrometheusObserver(registry)
    text = PAGES["observability.md"].read_text(encoding="utf-8")
    documented = {n.removesuffix("_total") for n in re.findall(r"`([a-z_]+)`", text)}
    for family in registry.collect():
        assert family.name.removeprefix("hybrid_infer_") in documented


def test_every_event_is_documented():
    from typing import get_args

    from hybrid_infer.events import Event

    text = PAGES["observability.md"].read_text(encoding="utf-8")
    assert [kind for kind in get_args(Event) if f"`{kind.__name__}`" not in text] == []
