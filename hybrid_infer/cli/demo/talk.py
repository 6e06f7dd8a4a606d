"""Who chats in the demo: SmolLM2 where its weights are at hand, else the tiny profile."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.datatypes.models import ModelSpec

if TYPE_CHECKING:
    from hybrid_infer import HybridClient
    from hybrid_infer.testing.answers import ChatAnswer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
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


def talk_at_hand(cache: Path, say: Callable[[str], None]) -> Talk:
    """SmolLM2 if ``./scripts/test`` has fetched it, staged in the Hub's cache; else tiny.

    Args:
        cache: this library's own cache folder.
        say: told about the slow first time.
    """
    from hybrid_infer.snapshots.download import stage

    gguf = cache / "test-weights" / GGUF
    if not gguf.is_file() or importlib.util.find_spec("gguf") is None:
        return TINY
    folder = cache / "demo" / "smollm2"
    if not folder.is_dir():
        say("unpacking SmolLM2-135M for the chat calls, once")
        try:
            _unpack(gguf, folder)
        except Exception as error:  # noqa: BLE001 - the demo must survive weights that do not open
            say(f"SmolLM2 cannot be unpacked ({type(error).__name__}), so chat is {TINY.label}")
            return TINY
    stage(folder, ModelSpec("chat", None, REPO, None))
    return SMOLLM2


def _unpack(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's weights as an ordinary model folder, all of it or nothing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from hybrid_infer.local.quiet import quiet_loading

    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet_loading():
        AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(draft)
        AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            **where,
        ).save_pretrained(draft)
    draft.rename(folder)


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
