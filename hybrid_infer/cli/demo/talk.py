"""Who chats in the demo: SmolLM2 where its weights are at hand, else the tiny profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from hybrid_infer import HybridClient
    from hybrid_infer.testing.answers import ChatAnswer

FOLDER = "SmolLM2-135M-Instruct"
REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONTEXT_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class Talk:
    """The chat half of the demo.

    Attributes:
        label: what the table and the picture call it.
        arguments: what its clients are made with, besides key and URL.
    """

    label: str
    arguments: Mapping[str, Any]


TINY = Talk("a tiny stand-in", {"profile": "tiny"})
SMOLLM2 = Talk(
    "SmolLM2-135M",
    {
        "models": {
            "chat": {
                "small": {
                    "repo": REPO,
                    "context_length": CONTEXT_LENGTH,
                    "generation": {"max_tokens": 64, "temperature": 0},
                }
            }
        }
    },
)


def talk_at_hand(cache: Path) -> Talk:
    """SmolLM2 if ``./scripts/test`` has fetched it, staged in the Hub's cache; else tiny.

    Args:
        cache: this library's own cache folder.
    """
    from hybrid_infer.snapshots.download import stage

    folder = cache / "test-weights" / FOLDER
    if not folder.is_dir():
        return TINY
    try:
        stage(folder, ModelSpec("chat", None, REPO, None))
    except HybridInferError:  # the demo is about routing, and damaged weights are not its subject
        return TINY
    return SMOLLM2


class ClientAnswers:
    """A fake remote's chat answers, from a client that computes them on this machine.

    Args:
        client: a ``local-only`` client; closed with these answers.
    """

    def __init__(self, client: HybridClient) -> None:
        self._client = client

    def embed(self, model: str, texts: Any, *, normalize: bool, truncate: bool) -> Any:
        """Not asked of these answers."""
        del model, texts, normalize, truncate
        raise TypeError("these answers are for chat")

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer:
        """The local answer to the same messages."""
        from hybrid_infer.testing.answers import ChatAnswer

        del model
        answer = self._client.chat_completion(
            body["messages"], model="small", max_tokens=body.get("max_tokens"), temperature=0
        )
        choice = answer.choices[0]
        return ChatAnswer(
            (choice.message.content or "",),
            choice.finish_reason,
            answer.usage.prompt_tokens or 0,
            answer.usage.completion_tokens or 0,
        )

    def close(self) -> None:
        """Close the client."""
        self._client.close()
