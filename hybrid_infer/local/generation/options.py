"""What the local copies honour of a chat call: one table, for every engine. Pure: no torch.

The fields of `GenerationOptions` are the table. An option that is none of them takes the local copy
out of the plan, so that it is never ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.local.generation.grammars import grammar_of

LEAST_TEMPERATURE = 1e-5  # below it every choice is the likeliest token, as in vLLM
STRUCTURED = 'pip install "hybrid-infer[structured]"'

# What OpenAI's API is told of the caller, and what changes no answer.
ABOUT_THE_ACCOUNT = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How one answer is generated.

    Attributes:
        max_tokens: new tokens at most.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_p: keep the likeliest tokens that together reach this mass; 1 keeps all.
        top_k: keep that many tokens; None keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        stop: strings that end the answer and are not part of it.
        seed: for reproducible sampling, or None.
        frequency_penalty: taken from a token's logit for each time that the answer has it.
        presence_penalty: taken from a token's logit if the answer has it at all.
        repetition_penalty: a logit of a token of prompt or answer is divided by it if positive,
            else multiplied; 1 changes nothing.
        logprobs: whether each token comes with its log-probability.
        top_logprobs: how many of the likeliest tokens come with it.
        n: how many independent answers there are.
        response_format: JSON mode or schema, in OpenAI's shape; None: any text.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    response_format: Mapping[str, Any] | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < LEAST_TEMPERATURE


HONOURED = tuple(field.name for field in fields(GenerationOptions))
NEEDS_EXTRA = {"response_format": "llguidance"}  # option → the package that honours it


def options_of(request: ChatRequest) -> GenerationOptions:
    """The options of a request, wherever it keeps them; those not given have their defaults."""
    given = {name: request.passthrough.get(name, getattr(request, name, None)) for name in HONOURED}
    return GenerationOptions(**{name: v for name, v in given.items() if v is not None})


def honoured_options() -> tuple[str, ...]:
    """The options that can be honoured here, with the packages that are installed."""
    return tuple(
        name for name in HONOURED if name not in NEEDS_EXTRA or find_spec(NEEDS_EXTRA[name])
    )


def unsupported_option(request: ChatRequest) -> tuple[str, str] | None:
    """The first option of `request` that cannot be honoured here, and why if that needs saying."""
    for option in request.passthrough:
        if option not in HONOURED and option not in ABOUT_THE_ACCOUNT:
            return option, ""
    for message in request.messages:
        if message["role"] == "tool" or message.get("tool_calls"):
            return "tools", ""
        if not isinstance(message.get("content"), str):
            return "content", ""
    if "response_format" in request.passthrough:
        return _unsupported_format(request.passthrough["response_format"])
    return None


def _unsupported_format(response_format: Mapping[str, Any]) -> tuple[str, str] | None:
    if "response_format" not in honoured_options():
        return "response_format", STRUCTURED
    try:
        grammar_of(response_format)
    except ValueError as error:
        return "response_format", str(error)
    return None


def seed_of_choice(seed: int | None, index: int) -> int | None:
    """The seed of one of several answers: the first one's is the call's own.

    Args:
        seed: the call's; None leaves every answer to chance.
        index: which answer.
    """
    if seed is None or index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # as any other seed: below 2**63
