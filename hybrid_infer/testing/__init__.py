"""A real TCP server that behaves like the remote, and pytest fixtures around it.

Public, for users' own tests::

    from hybrid_infer import HybridClient
    from hybrid_infer.testing import FakeRemote, Reply

    with FakeRemote() as remote, HybridClient(profile="tiny", base_url=remote.url) as client:
        remote.enqueue(Reply(status=429, retry_after=30))
        assert client.embed("text").route.backend == "local"

Importing this loads nothing of it: every public name below is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_infer.testing.answers import Answers as Answers
    from hybrid_infer.testing.answers import ChatAnswer as ChatAnswer
    from hybrid_infer.testing.answers import ChatEnd as ChatEnd
    from hybrid_infer.testing.answers import EchoAnswers as EchoAnswers
    from hybrid_infer.testing.messages import ReceivedRequest as ReceivedRequest
    from hybrid_infer.testing.scenario import Match as Match
    from hybrid_infer.testing.scenario import Reply as Reply
    from hybrid_infer.testing.scenario import Scenario as Scenario
    from hybrid_infer.testing.scenario import Step as Step
    from hybrid_infer.testing.scenario_file import load_scenario as load_scenario
    from hybrid_infer.testing.sentence_transformer_answers import (
        SentenceTransformerAnswers as SentenceTransformerAnswers,
    )
    from hybrid_infer.testing.server import FakeRemote as FakeRemote
    from hybrid_infer.testing.server import serve as serve
    from hybrid_infer.testing.sse import Event as Event
    from hybrid_infer.testing.tiny_answers import TinyAnswers as TinyAnswers

_EXPORTS = {
    "Answers": "answers",
    "ChatAnswer": "answers",
    "ChatEnd": "answers",
    "EchoAnswers": "answers",
    "Event": "sse",
    "FakeRemote": "server",
    "Match": "scenario",
    "ReceivedRequest": "messages",
    "Reply": "scenario",
    "Scenario": "scenario",
    "SentenceTransformerAnswers": "sentence_transformer_answers",
    "Step": "scenario",
    "TinyAnswers": "tiny_answers",
    "load_scenario": "scenario_file",
    "serve": "server",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - the names come from one table


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
