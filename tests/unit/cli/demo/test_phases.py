from types import SimpleNamespace

import numpy as np
import pytest

from hybrid_infer.cli.demo import phases
from hybrid_infer.cli.demo.phases import Performance, Scene
from hybrid_infer.datatypes.route import Reason, Route
from hybrid_infer.errors import RateLimitError

BATCHES = [[f"text {i}"] for i in range(14)]


class Stage:
    """A remote that is up or down, and a client that never loses a call unless told to."""

    def __init__(self):
        self.backend = "remote"
        self.requests = 0
        self.failing = None
        self.returns_after = None
        self.embedded = []

    def route(self):
        if self.returns_after is not None:
            self.returns_after -= 1
            if self.returns_after <= 0:
                self.backend = "remote"
        if self.backend == "remote":
            self.requests += 1
        if self.failing is not None:
            raise self.failing
        return Route(
            self.backend, None, "org/name", None, True, Reason.PRIMARY, "", (), 0.0, "float32"
        )

    def embed(self, texts, model):
        route = self.route()
        self.embedded.append(texts[0])
        return SimpleNamespace(route=route, vectors=np.ones((1, 2), np.float32))

    def chat_completion(self, _prompt, model, max_tokens):
        return SimpleNamespace(route=self.route())


@pytest.fixture
def stage(monkeypatch):
    monkeypatch.setattr(phases, "CALL_INTERVAL_SECONDS", 0.0)
    return Stage()


def perform(stage, *scenes):
    names = []
    played = Performance(stage, stage, BATCHES, lambda: stage.requests, names.append)
    played.play(scenes)
    assert names == [scene.name for scene in scenes]
    return played


def test_every_phase_sends_every_batch_once_and_a_few_chats(stage):
    played = perform(stage, Scene("healthy", lambda: None))
    assert sorted(stage.embedded) == sorted(batch[0] for batch in BATCHES)
    assert [call.task for call in played.calls].count("chat") == 2
    assert len(played.calls) == played.calls_per_phase == 16
    assert played.phases[0].requests == 16


def test_a_call_that_ends_badly_is_lost_and_the_demo_goes_on(stage):
    def fail():
        stage.failing = RateLimitError("slow down")

    def break_down():
        stage.failing = ZeroDivisionError("a bug")

    played = perform(stage, Scene("failing", fail), Scene("broken", break_down))
    assert all(call.server is None for call in played.calls)
    assert {call.error for call in played.calls if call.phase == 0} == {"RateLimitError: slow down"}
    assert {call.error for call in played.calls if call.phase == 1} == {"ZeroDivisionError: a bug"}


def test_the_last_phase_goes_on_until_the_remote_serves_again(stage):
    def come_back_late():
        stage.backend = "local"
        stage.returns_after = 40

    played = perform(stage, Scene("back", come_back_late, until_remote_serves=True))
    remote = [call for call in played.calls if call.server == "remote"]
    assert len(played.calls) > played.calls_per_phase
    assert len(remote) >= phases.RETURN_CALLS


def test_a_remote_that_stays_away_does_not_hold_the_demo_for_ever(stage, monkeypatch):
    monkeypatch.setattr(phases, "RETURN_LIMIT_SECONDS", 0.0)
    stage.backend = "local"
    played = perform(stage, Scene("back", lambda: None, until_remote_serves=True))
    assert len(played.calls) == played.calls_per_phase
