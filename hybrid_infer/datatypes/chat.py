"""Chat results in OpenAI's shape, each with its route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid_infer.datatypes.route import Route
from hybrid_infer.datatypes.timings import UNTIMED, ChatTimings


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The function that a tool call names; `arguments` is a JSON string."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of an answer; `index` orders the fragments of a streamed one."""

    id: str | None
    function: FunctionCall
    type: str = "function"
    index: int = 0


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A complete answer: its text, or the tool calls it asks for."""

    role: str
    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatChoice:
    """One answer.

    Attributes:
        index: which of the answers that ``n`` asked for.
        message: what was said.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"`` or the remote's own word.
        logprobs: in OpenAI's shape, ``{"content": [{"token", "logprob", "bytes",
            "top_logprobs"}, …]}``; None unless asked for.
    """

    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: Any = None


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """Token counts of one call; None where the backend does not say."""

    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def total_tokens(self) -> int | None:
        """Both together, or None if either is unknown."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """The result of ``chat_completion``.

    Attributes:
        id: an identifier of the answer.
        created: wall-clock seconds since the epoch.
        model: the repository id that answered.
        choices: the answers; one unless ``n`` asked for more.
        usage: token counts.
        route: who served the call.
        timings: how fast it came; unknown where a remote sent it whole.
    """

    id: str
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage
    route: Route
    object: str = "chat.completion"
    timings: ChatTimings = UNTIMED


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """What one chunk adds to an answer."""

    role: str | None = None
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """One answer's part of a chunk; `finish_reason` is set on its last one.

    `logprobs` has the entries of the tokens whose text ends here.
    """

    index: int
    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: Any = None


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """One event of a streamed answer.

    Attributes:
        id: the same on every chunk of a stream.
        created: wall-clock seconds since the epoch, the same on every chunk.
        model: the repository id that answers.
        choices: what the chunk adds; empty on the usage chunk.
        usage: token counts, on the last chunk when ``stream_options`` asked for them.
        route: who serves this chunk.
    """

    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | None
    route: Route
    object: str = "chat.completion.chunk"
