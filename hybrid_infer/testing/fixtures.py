"""Pytest fixtures, found by pytest itself once the package is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hybrid_infer.testing.server import FakeRemote


@pytest.fixture
def fake_remote() -> Iterator[FakeRemote]:
    """A running `FakeRemote` that answers as the tiny models do."""
    from hybrid_infer.testing import FakeRemote

    with FakeRemote() as remote:
        yield remote


@pytest.fixture
def fake_remote_factory() -> Iterator[Callable[..., FakeRemote]]:
    """Makes running `FakeRemote` servers from their constructor's arguments."""
    from hybrid_infer.testing import FakeRemote

    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeRemote(*args, **options))
