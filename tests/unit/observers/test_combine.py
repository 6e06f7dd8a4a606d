import logging
from unittest.mock import MagicMock, Mock

import pytest

from hybrid_infer.events import CallFinished
from hybrid_infer.observers import combine


def test_one_that_raises_takes_nothing_from_the_others(watched, prompt, caplog):
    seen = []

    def broken(event):
        raise RuntimeError("no")

    with watched(combine(broken, seen.append)) as client:
        client.embed(prompt, model="small")
    assert any(isinstance(event, CallFinished) for event in seen)
    logged = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(logged) == len(seen)


def test_none_is_an_observer_that_does_nothing(watched, prompt):
    with watched(combine()) as client:
        assert client.embed(prompt, model="small").vectors.shape == (1, 384)


def test_one_that_names_kinds_is_told_no_others(watched, prompt):
    class Choosy:
        kinds = frozenset({CallFinished})

        def __init__(self):
            self.seen = []

        def __call__(self, event):
            self.seen.append(event)

    choosy, seen = Choosy(), []
    with watched(combine(combine(choosy), seen.append)) as client:
        client.embed(prompt, model="small")
    assert [type(event) for event in choosy.seen] == [CallFinished]
    assert len(seen) > 1


@pytest.mark.parametrize("kind", [Mock, MagicMock])
def test_whatever_else_an_observer_has_it_is_told_everything(watched, prompt, kind):
    observer, seen = kind(), []
    with watched(combine(observer, None, seen.append)) as client:
        client.embed(prompt, model="small")
    assert observer.call_count == len(seen) > 1
