"""The Python of the documentation runs as it is written, on the tiny profile."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["adapters.md", "observability.md"])
def test_the_blocks_of_a_page_run_in_their_order(name, monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_PROFILE", "tiny")
    blocks = BLOCK.findall((DOCS / name).read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    page = {"__name__": name}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}, block {number}", "exec"), page)  # noqa: S102 - our own
    page["client"].close()


def test_every_metric_is_documented():
    from prometheus_client import CollectorRegistry

    from hybrid_infer.observers.prometheus import PrometheusObserver

    registry = CollectorRegistry()
    PrometheusObserver(registry)
    text = (DOCS / "observability.md").read_text(encoding="utf-8")
    documented = {n.removesuffix("_total") for n in re.findall(r"`([a-z_]+)`", text)}
    for family in registry.collect():
        assert family.name.removeprefix("hybrid_infer_") in documented


def test_every_event_is_documented():
    from typing import get_args

    from hybrid_infer.events import Event

    text = (DOCS / "observability.md").read_text(encoding="utf-8")
    assert [kind for kind in get_args(Event) if f"`{kind.__name__}`" not in text] == []
