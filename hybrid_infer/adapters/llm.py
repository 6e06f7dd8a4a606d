"""A plugin for ``llm`` (https://llm.datasette.io); needs the extra ``llm``.

    llm install hybrid-infer                 # or: pip install "hybrid-infer[llm]"
    llm -m hybrid-infer/small "Explain low latency."
    llm embed -m hybrid-infer/small -c "a text"

Its models are the aliases of models.yaml. All of them share one `HybridClient`, which the
``HYBRID_INFER_`` variables configure.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any, cast

from hybrid_infer.client.sync import HybridClient
from hybrid_infer.datatypes.chat import ChatUsage
from hybrid_infer.datatypes.models import Task
from hybrid_infer.errors import InvalidRequestError

try:
    import llm
    from llm.models import EmbeddingModel
    from llm.parts import TextPart
    from pydantic import Field
except ImportError as missing:
    raise ImportError('the llm plugin needs llm: pip install "hybrid-infer[llm]"') from missing

PREFIX = "hybrid-infer/"
TEXTS_PER_CALL = 256


@functools.cache
def client() -> HybridClient:
    """The client behind every model of this plugin, made for the first call."""
    return HybridClient()


def _aliases(task: Task) -> list[str]:
    from hybrid_infer.registry import load_registry

    return [spec.alias for spec in load_registry().models if spec.task == task and spec.alias]


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register the chat aliases."""
    for alias in _aliases("chat"):
        register(Chat(alias), AsyncChat(alias))


@llm.hookimpl
def register_embedding_models(register: Callable[..., None]) -> None:
    """Register the embedding aliases."""
    for alias in _aliases("embeddings"):
        register(Embedding(alias))


class Options(llm.Options):
    """Options of a prompt, as `HybridClient.chat_completion` knows them."""

    max_tokens: int | None = Field(default=None, description="New tokens at most")
    temperature: float | None = Field(default=None, description="0 (greedy) to 2")
    top_p: float | None = Field(default=None, description="Nucleus mass in (0, 1]")
    top_k: int | None = Field(default=None, description="Candidates kept at each step")
    seed: int | None = Field(default=None, description="Makes sampling reproducible")
    route: str | None = Field(default=None, description="local, remote, or a remote's name")
    deadline: float | None = Field(default=None, description="Seconds for the whole call")


class Chat(llm.Model):
    """One chat alias."""

    can_stream = True

    class Options(Options):
        """See `hybrid_infer.adapters.llm.Options`."""

    def __init__(self, alias: str) -> None:
        self.model_id, self._alias = PREFIX + alias, alias

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,  # noqa: ARG002 - prompt.messages has all of it
    ) -> Iterator[str]:
        """The answer's text, in pieces if it is streamed."""
        yield from _answer(self._alias, prompt, response, stream=stream)


class AsyncChat(llm.AsyncModel):
    """`Chat`, awaited: the same client on a thread, so that a model is loaded once."""

    can_stream = True

    class Options(Options):
        """See `hybrid_infer.adapters.llm.Options`."""

    def __init__(self, alias: str) -> None:
        self.model_id, self._alias = PREFIX + alias, alias

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,  # noqa: ARG002 - prompt.messages has all of it
    ) -> AsyncGenerator[str, None]:
        """The answer's text, in pieces if it is streamed."""
        pieces = _answer(self._alias, prompt, response, stream=stream)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


class Embedding(EmbeddingModel):
    """One embeddings alias."""

    batch_size = TEXTS_PER_CALL

    def __init__(self, alias: str) -> None:
        self.model_id, self._alias = PREFIX + alias, alias

    def embed_batch(
        self,
        items: Iterable[str | bytes],
        *,
        key: str | None = None,  # noqa: ARG002 - llm's; keys are the client's business
    ) -> Iterator[list[float]]:
        """One vector a text."""
        texts = cast("list[str]", list(items))  # llm refuses bytes, as the class attributes ask
        yield from client().embed(texts, self._alias).vectors.tolist()


def _answer(alias: str, prompt: llm.Prompt, response: Any, *, stream: bool) -> Iterator[str]:
    options = prompt.options.model_dump(exclude_none=True)
    messages = _messages(prompt)
    if not stream:
        answer = client().chat_completion(messages, alias, **options)
        _note(response, answer.usage, answer.model)
        yield answer.choices[0].message.content or ""
        return
    options["stream_options"] = {"include_usage": True}
    with client().chat_completion(messages, alias, stream=True, **options) as chunks:
        for chunk in chunks:
            if chunk.usage is not None:
                _note(response, chunk.usage, chunk.model)
            for choice in chunk.choices:
                if choice.delta.content:
                    yield choice.delta.content


def _note(response: Any, usage: ChatUsage, model: str) -> None:
    response.set_usage(input=usage.prompt_tokens, output=usage.completion_tokens)
    response.set_resolved_model(model)


def _messages(prompt: llm.Prompt) -> list[dict[str, str]]:
    """The conversation up to here, in OpenAI's shape.

    Raises:
        InvalidRequestError: a part of it is no text.
    """
    messages = []
    for message in prompt.messages:
        texts = []
        for part in message.parts:
            if not isinstance(part, TextPart):
                raise InvalidRequestError(
                    f"this model reads text only, and got a {type(part).__name__}",
                    argument="messages",
                )
            texts.append(part.text)
        messages.append({"role": message.role, "content": "".join(texts)})
    return messages
