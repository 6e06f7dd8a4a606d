"""From messages to prompt tokens, through the snapshot's own chat template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ContextLengthError, InvalidRequestError, ModelIntegrityError
from hybrid_infer.local.generation.constraining import vocabulary_of
from hybrid_infer.local.generation.marks import Mark, Marks, marks_of, stand_in
from hybrid_infer.local.generation.spelling import piece_bytes

Messages = Sequence[Mapping[str, Any]]

_SPEAKERS = ("user", "assistant")  # whom every chat template knows


class Prompter:
    """A chat model's tokenizer and template.

    Args:
        path: the snapshot's folder.
        context_length: the model's window in tokens; None: what the tokenizer says.
        tokenizer: what to use instead of the folder's own tokenizer.

    Raises:
        ModelIntegrityError: the snapshot has no chat template.
    """

    def __init__(self, path: Path, context_length: int | None, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer or _snapshot_tokenizer(path)
        if not self._tokenizer.chat_template:
            raise ModelIntegrityError(f"{path} has no chat template")
        self.context_length: int = context_length or self._tokenizer.model_max_length
        marks = self._vocabulary_marks()
        self._marks = Marks(marks)
        self.special_tokens = frozenset(mark.token for mark in marks)
        self._grammar_vocabulary: Any = None

    def _vocabulary_marks(self) -> list[Mark]:
        return marks_of(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out, blanks as they are."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    @cached_property
    def pieces(self) -> list[str]:
        """The vocabulary's spelling of every token."""
        return [
            piece or ""
            for piece in self._tokenizer.convert_ids_to_tokens(range(len(self._tokenizer)))
        ]

    def spell(self, token: int) -> bytes:
        """The bytes of a token; a special one's are its name, one of the padding behind all has none."""
        if token >= len(self.pieces):
            return b""
        return piece_bytes(self.pieces[token], is_byte_level=self._is_byte_level)

    @cached_property
    def _is_byte_level(self) -> bool:
        return type(self._tokenizer.backend_tokenizer.decoder).__name__ == "ByteLevel"

    def grammar_vocabulary(self, ends: Collection[int]) -> Any:
        """The vocabulary as constrained decoding sees it; made once, with the first call's `ends`."""
        if self._grammar_vocabulary is None:
            self._grammar_vocabulary = self._make_grammar_vocabulary(ends)
        return self._grammar_vocabulary

    def _make_grammar_vocabulary(self, ends: Collection[int]) -> Any:
        return vocabulary_of(self._tokenizer, ends)

    def encode_answer(self, prompt: list[int], text: str) -> list[int]:
        """The tokens of an answer to `prompt` as far as `text`.

        Some tokenizers put a blank before a text that stands alone. So the tokens are those that
        read as `text` behind the prompt: made from the text alone, else together with the prompt.
        """
        alone = self._ids(text, is_plain=True)
        before = self._read(prompt)
        if self._read(prompt + alone) == before + text:
            return alone
        together = self._ids(before + text)
        return together[len(prompt) :] if together[: len(prompt)] == prompt else alone

    def _read(self, ids: list[int]) -> str:
        """The text of tokens, special ones included."""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, messages: Messages) -> list[int]:
        """The tokens of a conversation, up to where the assistant speaks.

        Special tokens in a message's text stay text: they cannot forge a role.

        Raises:
            InvalidRequestError: the template refuses the messages, or leaves one out.
        """
        told = [self._told(message) for message in messages]
        if any(message["role"] not in _SPEAKERS for message in told):
            self._check_all_told(told)
        if any(self._marks.are_in(message["content"]) for message in told):
            return self._encode_apart(told)
        return self._ids(self._rendered(told))

    def _told(self, message: Mapping[str, Any]) -> dict[str, str]:
        """What the template sees: role and text, since any other key could forge a role too."""
        role = message["role"]
        if role == "developer" and "developer" not in str(self._tokenizer.chat_template):
            role = "system"  # OpenAI's newer word for it
        return {"role": role, "content": str(message.get("content") or "")}

    def _check_all_told(self, told: Sequence[dict[str, str]]) -> None:
        """Refuse a message that the template would silently leave out, as some do with `system`."""
        rendered = self._rendered(
            [{**message, "content": stand_in(index)} for index, message in enumerate(told)]
        )
        for index, message in enumerate(told):
            if stand_in(index) not in rendered:
                raise InvalidRequestError(
                    f"the model's chat template leaves out messages of role {message['role']!r}",
                    argument=f"messages[{index}].role",
                )

    def _rendered(self, told: Sequence[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                told, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {error}", argument="messages"
            ) from None
        return text

    def _ids(self, text: str, *, is_plain: bool = False) -> list[int]:
        ids: list[int] = []
        for piece in self._marks.cut(text) if is_plain else [text]:
            ids += self._tokenizer(
                piece, add_special_tokens=False, split_special_tokens=is_plain, verbose=False
            )["input_ids"]
        return ids

    def _encode_apart(self, told: Sequence[dict[str, str]]) -> list[int]:
        """Render with stand-ins for the marks in texts; these are tokenised apart from the template's.

        The template sees all else, so that what it looks for, and cuts, is there.
        """
        texts, originals = self._marks.hidden(message["content"] for message in told)
        rendered = self._rendered(
            [{**message, "content": text} for message, text in zip(told, texts, strict=True)]
        )
        ids: list[int] = []
        for part, is_plain in self._marks.parts(rendered, originals):
            ids += self._ids(part, is_plain=is_plain)
        return ids


def _snapshot_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(  # nosec B615
        str(path), local_files_only=True, trust_remote_code=False
    )


def room_left(
    prompt_tokens: int, max_tokens: int, context_length: int, *, may_shrink: bool, name: str
) -> int:
    """New tokens that may be generated.

    Args:
        prompt_tokens: tokens of the prompt.
        max_tokens: tokens asked for.
        context_length: the model's window.
        may_shrink: whether `max_tokens` is only a default.
        name: the model, for the message.

    Raises:
        ContextLengthError: the prompt, or prompt and `max_tokens` together, do not fit.
    """
    left = context_length - prompt_tokens
    if left < 1:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and the window of {name} {context_length}",
            argument="messages",
            num_tokens=prompt_tokens + 1,
        )
    if max_tokens > left and not may_shrink:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and max_tokens asks for {max_tokens} more; "
            f"the window of {name} has {context_length}",
            argument="max_tokens",
            num_tokens=prompt_tokens + max_tokens,
        )
    return min(max_tokens, left)
