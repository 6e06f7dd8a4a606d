"""From messages to prompt tokens, through the snapshot's own chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hybrid_infer.errors import ContextLengthError, InvalidRequestError, ModelIntegrityError

Messages = Sequence[Mapping[str, Any]]


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
        added = self._tokenizer.get_added_vocab()
        self._special = re.compile("|".join(re.escape(token) for token in added)) if added else None
        self.special_tokens = frozenset(added.values())

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
            InvalidRequestError: the template refuses the messages.
        """
        if self._special is not None and any(
            self._special.search(str(message.get("content") or "")) for message in messages
        ):
            return self._encode_apart(messages)
        return self._ids(self._rendered(messages))

    def _rendered(self, messages: Messages) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {error}", argument="messages"
            ) from None
        return text

    def _ids(self, text: str, *, is_plain: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=is_plain, verbose=False
        )["input_ids"]
        return ids

    def _encode_apart(self, messages: Messages) -> list[int]:
        """Render with stand-ins for the texts, then tokenise template and texts apart."""
        stand_ins = [f"\ue000{index}\ue001" for index in range(len(messages))]
        rendered = self._rendered(
            [
                {**message, "content": stand_in}
                for message, stand_in in zip(messages, stand_ins, strict=True)
            ]
        )
        trims = self._trims()
        ids: list[int] = []
        for piece in re.split("(\ue000[0-9]+\ue001)", rendered):
            if piece.startswith("\ue000"):
                content = str(messages[int(piece[1:-1])].get("content") or "")
                ids += self._ids(content.strip() if trims else content, is_plain=True)
            elif piece:
                ids += self._ids(piece)
        return ids

    def _trims(self) -> bool:
        """Whether the template strips the outer blanks of a text."""
        return " \ue000 " not in self._rendered([{"role": "user", "content": " \ue000 "}])


def _snapshot_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)


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
        )
    if max_tokens > left and not may_shrink:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and max_tokens asks for {max_tokens} more; "
            f"the window of {name} has {context_length}",
            argument="max_tokens",
        )
    return min(max_tokens, left)
