"""A GGUF file's own tokenizer and template, with those methods of transformers' that are used here."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from hybrid_infer.local.generation.gguf.library import GgufModel, library

_LONGEST_PIECE = 512


class GgufTokenizer:
    """Tokenises as llama.cpp does.

    Args:
        model: the file.
        context_length: its window in tokens.

    Attributes:
        chat_template: the file's own, or None.
        model_max_length: the window.
    """

    def __init__(self, model: GgufModel, context_length: int) -> None:
        self._model, self._llama = model, library()
        self.chat_template = model.chat_template
        self.model_max_length = context_length
        self._size = int(self._llama.llama_vocab_n_tokens(model.vocab))
        self._texts: dict[tuple[int, bool], bytes] = {}

    def __len__(self) -> int:
        return self._size

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that stand for no ordinary text: roles, ends, and what a user may not forge."""
        return self._added

    @cached_property
    def _added(self) -> dict[str, int]:
        llama = self._llama
        return self._marked(llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _marked(self, attributes: int) -> dict[str, int]:
        attribute, vocab = self._llama.llama_vocab_get_attr, self._model.vocab
        tokens = [token for token in range(self._size) if attribute(vocab, token) & attributes]
        named = {
            self._piece(token, special=True).decode(errors="replace"): token for token in tokens
        }
        # Runs of blanks are user-defined tokens in some vocabularies, and no marks.
        return {text: token for text, token in named.items() if text.strip()}

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        is_end, vocab = self._llama.llama_vocab_is_eog, self._model.vocab
        return frozenset(token for token in range(self._size) if is_end(vocab, token))

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's spelling of tokens."""
        text, vocab = self._llama.llama_vocab_get_text, self._model.vocab
        return [(text(vocab, token) or b"").decode(errors="replace") for token in ids]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of tokens; bytes that are no whole character are U+FFFD."""
        special = not skip_special_tokens
        pieces = [self._piece(token, special=special) for token in ids]
        return b"".join(pieces).decode(errors="replace")

    def spell(self, token: int) -> bytes:
        """The bytes of a token; a special one's are its name."""
        return self._piece(token, special=True)

    def grammar_vocabulary(self, ends: Collection[int]) -> Any:
        """The vocabulary as constrained decoding sees it; see `constraining.vocabulary_of`.

        As `llguidance.llamacpp` makes it, which calls functions that llama-cpp-python deprecates.
        """
        from llguidance import LLTokenizer

        make: Any = LLTokenizer
        tokenize = self._llama.llama_cpp._lib.llama_tokenize  # noqa: SLF001 - the address is nowhere else
        return make.from_llamacpp(
            tokens=[self._grammar_piece(token) for token in range(self._size)],
            vocab_ptr=self._model.vocab,
            tokenize_fptr=ctypes.cast(tokenize, ctypes.c_void_p).value,
            eos_token=sorted(ends) or self._llama.llama_vocab_eos(self._model.vocab),
        )

    def _grammar_piece(self, token: int) -> bytes:
        """The bytes of a token; llguidance knows one that is no text by a byte in front."""
        llama, piece = self._llama, self.spell(token)
        attributes = llama.llama_vocab_get_attr(self._model.vocab, token)
        is_mark = attributes & llama.LLAMA_TOKEN_ATTR_CONTROL or (
            attributes & llama.LLAMA_TOKEN_ATTR_USER_DEFINED
            and piece.startswith(b"<")
            and piece.endswith(b">")
        )
        return b"\xff" + piece if is_mark else piece

    def _piece(self, token: int, *, special: bool) -> bytes:
        known = self._texts.get((token, special))
        if known is None:
            known = self._texts[token, special] = self._read_piece(token, special=special)
        return known

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_LONGEST_PIECE)
        to_piece, vocab = self._llama.llama_token_to_piece, self._model.vocab
        size = to_piece(vocab, token, buffer, _LONGEST_PIECE, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = to_piece(vocab, token, buffer, -size, 0, special)
        return buffer.raw[:size]

    def __call__(
        self, text: str, *, split_special_tokens: bool = False, **_: Any
    ) -> dict[str, list[int]]:
        """The tokens of `text`, under ``input_ids``; none is put before or behind them.

        Args:
            text: what to tokenise.
            split_special_tokens: whether a special token's name in it is only text.
        """
        if not split_special_tokens:
            return {"input_ids": self._tokens(text, parse_special=True)}
        # llama.cpp still recognises user-defined tokens, so their names are cut in two.
        cuts = [name.start() + 1 for name in self._user_defined.finditer(text)]
        parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        tokens = [self._tokens(part, parse_special=False) for part in parts]
        return {"input_ids": [token for part in tokens for token in part]}

    @cached_property
    def _user_defined(self) -> re.Pattern[str]:
        """Where the name of a user-defined token begins, even inside another's."""
        names = self._marked(self._llama.LLAMA_TOKEN_ATTR_USER_DEFINED)
        return re.compile(f"(?={'|'.join(map(re.escape, names))})" if names else r"(?!)")

    def _tokens(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8  # a token is a byte at least, and a blank may be put in front
        tokens = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(
            self._model.vocab, data, len(data), tokens, room, False, parse_special
        )
        if count < 0:
            raise RuntimeError("llama.cpp could not tokenise a text")
        return list(tokens[:count])

    def apply_chat_template(
        self, messages: Sequence[dict[str, Any]], *, tools: Any = None, **options: Any
    ) -> str:
        """The conversation as the file's template writes it, in transformers' sandbox."""
        from transformers.utils import chat_template_utils

        options.pop("tokenize", None)
        render: Any = chat_template_utils.render_jinja_template
        (rendered,), _ = render(
            [list(messages)],
            tools=tools,
            chat_template=self.chat_template,
            **self._named,
            **options,
        )
        return str(rendered)

    @cached_property
    def _named(self) -> dict[str, str]:
        """The tokens that templates know by name."""
        llama, vocab = self._llama, self._model.vocab
        named = {
            "bos_token": llama.llama_vocab_bos(vocab),
            "eos_token": llama.llama_vocab_eos(vocab),
            "pad_token": llama.llama_vocab_pad(vocab),
        }
        return {
            name: self._piece(token, special=True).decode(errors="replace")
            for name, token in named.items()
            if token >= 0
        }
