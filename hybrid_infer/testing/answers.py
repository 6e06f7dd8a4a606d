"""What a healthy fake remote says: the protocol, and the instant made-up answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.testing.catalogue import find_model

DEFAULT_DIM = 384
DEFAULT_MAX_TOKENS = 1024

Message: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatEnd:
    """The last item of a chat answer: why it ended, and what it cost in tokens."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer at once: the pieces that a stream sends one by one, and its end."""

    pieces: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    def items(self) -> Iterator[str | ChatEnd]:
        """The answer as it would come piece by piece."""
        yield from self.pieces
        yield ChatEnd(self.finish_reason, self.prompt_tokens, self.completion_tokens)


class Answers(Protocol):
    """Where a fake remote's healthy answers come from. Called from several worker threads.

    An `InvalidRequestError` becomes an answer as the caller's own mistake (404 or 400 where its
    ``argument`` is ``"model"``, else 422), any other exception a 500. An object that also has
    ``close()`` is closed by whoever made it.
    """

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """Vectors, float32 ``(n, dim)``, row i for text i."""
        ...

    def chat(self, model: str, body: Mapping[str, Any]) -> ChatAnswer | Iterator[str | ChatEnd]:
        """An answer: whole, or pieces of text as they come and then one `ChatEnd`.

        Args:
            model: as the request names it, without a provider.
            body: the request's, in OpenAI's shape; ``messages`` is a list that is not empty, and
                nothing else is validated.
        """
        ...


class EchoAnswers:
    """Instant answers without a model: vectors seeded by the text, chat that repeats the prompt.

    Tokens are words here. A model is known by the last part of its name, so a repository and
    its ``tiny/`` twin give the same vectors; the dimension and the limit of words are those of
    the packaged model of that name, where there is one.

    Args:
        dim: length of a vector; None: the packaged model's, else 384.
    """

    def __init__(self, dim: int | None = None) -> None:
        if dim is not None and dim < 1:
            raise InvalidRequestError("dim must be at least 1", argument="dim")
        self._dim = dim

    def embed(
        self, model: str, texts: Sequence[str], *, normalize: bool, truncate: bool
    ) -> NDArray[np.float32]:
        """Vectors that depend on the model's name and on each text alone."""
        spec = find_model(model, "embeddings")
        dim = self._dim or (spec.dim if spec else None) or DEFAULT_DIM
        repo = spec.repo if spec else model
        most = spec.max_seq_length if spec else None
        vectors = np.empty((len(texts), dim), np.float32)
        for row, text in enumerate(texts):
            words = text.split()
            if most is not None and len(words) > most:
                if not truncate:
                    raise ContextLengthError(
                        f"`inputs` must have less than {most} tokens. Given: {len(words)}"
                    )
                text = " ".join(words[:most])  # noqa: PLW2901 - the cut text is what counts
            vectors[row] = _seeded_row(f"{repo.rpartition('/')[2]}\0{text}", dim)
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def chat(self, model: str, body: Mapping[str, Any]) -> Iterator[str | ChatEnd]:
        """The last message's own words, up to ``max_tokens`` of them or to a ``stop`` string."""
        del model
        prompts = [text_of(message) for message in body["messages"]]
        said = prompts[-1] if prompts else ""
        stop = body.get("stop") or ()
        for end in [stop] if isinstance(stop, str) else stop:
            said = said.partition(end)[0]
        words = said.split()
        most = body.get("max_tokens") or DEFAULT_MAX_TOKENS
        for place, word in enumerate(words[:most]):
            yield f" {word}" if place else word
        finish_reason = "length" if len(words) > most else "stop"
        prompt_tokens = sum(len(prompt.split()) for prompt in prompts)
        yield ChatEnd(finish_reason, prompt_tokens, min(len(words), most))


def text_of(message: Message) -> str:
    """A message's text, its parts joined where it has parts."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _seeded_row(seed: str, dim: int) -> NDArray[np.float32]:
    # Scaled integers of a counter-based generator: the same on every machine and numpy version.
    key = int.from_bytes(
        hashlib.sha256(seed.encode(errors="surrogatepass")).digest()[:16], "little"
    )
    raw = np.random.Philox(key=key).random_raw(dim)
    return (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)


def made_answers(wanted: str | Answers) -> Answers:
    """The answers that ``"tiny"`` or ``"echo"`` means, or the object itself.

    Raises:
        InvalidRequestError: another word.
    """
    if wanted == "echo":
        return EchoAnswers()
    if wanted == "tiny":
        from hybrid_infer.testing.tiny_answers import TinyAnswers

        return TinyAnswers()
    if isinstance(wanted, str):
        raise InvalidRequestError(
            f"answers must be 'tiny', 'echo' or an object with embed and chat, not {wanted!r}",
            argument="answers",
        )
    return wanted
