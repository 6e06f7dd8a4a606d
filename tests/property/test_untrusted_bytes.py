"""The fuzzing targets with Hypothesis: every reader of a stranger's bytes ends with its own error or none.

`scripts/audit/fuzz.py` runs the same targets with atheris, guided by coverage, for as long as one likes.
"""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parents[2] / "scripts" / "audit" / "fuzz.py"


def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", FUZZ)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULE = fuzz()


@cache
def target(name):
    return MODULE.TARGETS[name]()


@cache
def seeds(name):
    return [path.read_bytes() for path in sorted((MODULE.CORPUS / name).iterdir())]


@pytest.mark.parametrize("name", MODULE.TARGETS)
def test_seeds_are_read(name):
    for seed in seeds(name):
        target(name)(seed)


@pytest.mark.parametrize("name", MODULE.TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_changed_seeds_end_well(name, data):
    """A seed with a piece replaced, so that what comes behind the first checks is reached."""
    seed = data.draw(st.sampled_from(seeds(name)))
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, min(len(seed), start + 64)))
    target(name)(seed[:start] + data.draw(st.binary(max_size=64)) + seed[end:])


@pytest.mark.parametrize("name", MODULE.TARGETS)
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=2048))
def test_any_bytes_end_well(name, data):
    target(name)(data)
