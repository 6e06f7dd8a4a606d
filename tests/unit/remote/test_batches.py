from __future__ import annotations

import threading

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.errors import RateLimitError, RemoteProtocolError
from hybrid_infer.remote.batches import Crew, halves, in_batches

SPEC = ModelSpec("embeddings", "small", "org/name", None)


class Handle:
    """Stands in for an exchange: something that can be aborted."""

    def __init__(self) -> None:
        self.aborted = threading.Event()

    def abort(self) -> None:
        self.aborted.set()


def batches_of(*texts: str) -> list[EmbedRequest]:
    return [EmbedRequest(SPEC, (text,)) for text in texts]


def test_cutting_keeps_every_text_in_order():
    request = EmbedRequest(SPEC, tuple("abcdefg"))
    assert [batch.texts for batch in in_batches(request, 3)] == [
        ("a", "b", "c"),
        ("d", "e", "f"),
        ("g",),
    ]
    assert in_batches(request, 7) == [request]
    assert [half.texts for half in halves(request)] == [("a", "b", "c", "d"), ("e", "f", "g")]


def test_a_failure_elsewhere_frees_the_calling_thread():
    caller_waits = threading.Event()

    def work(batch, handle):
        if threading.current_thread() is threading.main_thread():
            caller_waits.set()
            assert handle.aborted.wait(10)
            raise RemoteProtocolError("what an abort looks like")
        assert caller_waits.wait(10)
        raise RateLimitError("the first failure")

    with pytest.raises(RateLimitError):
        Crew(work, Handle, batches_of("a", "b")).run(2)


def test_an_interrupt_of_the_calling_thread_ends_the_others():
    others_wait = threading.Event()
    was_aborted = threading.Event()

    def work(batch, handle):
        if threading.current_thread() is threading.main_thread():
            assert others_wait.wait(10)
            raise KeyboardInterrupt
        others_wait.set()
        if handle.aborted.wait(10):
            was_aborted.set()
        raise RemoteProtocolError("what an abort looks like")

    with pytest.raises(KeyboardInterrupt):
        Crew(work, Handle, batches_of("a", "b")).run(2)
    assert was_aborted.wait(10)


def test_a_system_without_threads_still_serves(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    crew = Crew(lambda batch, _: batch.texts[0], Handle, batches_of("a", "b", "c"))
    assert crew.run(8) == ["a", "b", "c"]
