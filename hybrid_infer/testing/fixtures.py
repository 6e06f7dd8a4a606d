"""Pytest fixtures, found by pytest itself once the package is installed.

This module is imported in every pytest run on the machine, so it imports nothing of weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hybrid_infer.testing.server import FakeRemote
    from hybrid_infer.testing.tiny_answers import TinyAnswers


@pytest.fixture(scope="session")
def hybrid_infer_tiny_answers() -> Iterator[TinyAnswers]:
    """The tiny models' answers, loaded once a session and only if a request comes."""
    from hybrid_infer.testing.tiny_answers import TinyAnswers

    answers = TinyAnswers()
    yield answers
    answers.close()


@pytest.fixture
def fake_remote(hybrid_infer_tiny_answers: TinyAnswers) -> Iterator[FakeRemote]:
    """A running `FakeRemote`, a fresh one for each test, that answers as the tiny models do."""
    from hybrid_infer.testing.server import FakeRemote

    with FakeRemote(hybrid_infer_tiny_answers) as remote:
        yield remote


@pytest.fixture
def fake_remote_factory() -> Iterator[Callable[..., FakeRemote]]:
    """Makes running `FakeRemote` servers from the constructor's arguments; all end with the test.

    For instance ``fake_remote_factory("echo", api_key="hf_x")``, which loads no torch.
    """
    from hybrid_infer.testing.server import FakeRemote

    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeRemote(*args, **options))
