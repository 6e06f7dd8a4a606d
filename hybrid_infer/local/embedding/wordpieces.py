"""Which tokenizers our own WordPiece can stand in for, and on which texts."""

from __future__ import annotations

import string
from itertools import chain
from typing import Any

from hybrid_infer.local.native import wordpiece
from hybrid_infer.local.native.wordpiece import Character, Rules, WordPiece

MAX_ADDED_BYTES = 255  # of an added token, which the C code keeps behind its length
# Characters that are done here. Normalising them depends on no neighbour: BertNormalizer drops or maps
# each on its own, but for canonical ordering, which only moves marks that it drops afterwards.
CHARACTERS = (
    range(0x530),  # ASCII, Latin, Greek, Cyrillic
    range(0x1E00, 0x2C00),  # more Latin and Greek, punctuation, currencies, arrows, mathematics
    range(0xFE00, 0xFE10),  # variation selectors
    range(0xFEFF, 0xFF00),  # the byte order mark
    range(0xFFFD, 0xFFFE),  # what could not be decoded
    range(0x1F300, 0x1FB00),  # emoji
)
MARK = "\u3001"  # a word of its own that is none of these: the ideographic comma


def native_tokenizer(tokenizer: Any, max_seq_length: int | None) -> WordPiece | None:
    """What gives the same ids for every text that it does not refuse; None if nothing here does.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` that neither cuts nor pads.
        max_seq_length: tokens that a text is to be cut to, special tokens included.
    """
    compiled = wordpiece.library()
    if compiled is None or not _is_word_piece(tokenizer):
        return None
    rules = rules_of(tokenizer, max_seq_length)
    return None if rules is None else WordPiece(compiled, rules)


def _is_word_piece(tokenizer: Any) -> bool:
    """Whether it is BERT's tokenizer. A subclass or a sequence of steps may do anything."""
    from tokenizers import models, normalizers, pre_tokenizers, processors

    post_processors = (
        processors.BertProcessing,
        processors.RobertaProcessing,
        processors.TemplateProcessing,
        type(None),
    )
    return (
        type(tokenizer.model) is models.WordPiece
        and type(tokenizer.normalizer) is normalizers.BertNormalizer
        and type(tokenizer.pre_tokenizer) is pre_tokenizers.BertPreTokenizer
        and type(tokenizer.post_processor) in post_processors
    )


def rules_of(tokenizer: Any, max_seq_length: int | None) -> Rules | None:
    """What BERT's tokenizer does; None if it is configured beyond what `Rules` can say."""
    model = tokenizer.model
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    added = _added_tokens(tokenizer)
    if (
        model.unk_token not in vocabulary
        or model.max_input_chars_per_word > wordpiece.MAX_CHARACTERS
        or len(model.continuing_subword_prefix) > wordpiece.MAX_PREFIX_CHARACTERS
        or added is None
    ):
        return None
    around = _special_tokens(tokenizer)
    if around is None:
        return None
    before, after = around
    max_tokens = wordpiece.UNLIMITED
    if max_seq_length is not None:
        max_tokens = max_seq_length - len(before) - len(after)
    if max_tokens < 0:
        return None
    return Rules(
        vocabulary=vocabulary,
        continuing_prefix=model.continuing_subword_prefix,
        unknown=vocabulary[model.unk_token],
        max_word_characters=model.max_input_chars_per_word,
        characters=_characters(tokenizer, {token[0] for token in added}),
        added=added,
        before=before,
        after=after,
        max_tokens=max_tokens,
    )


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]] | None:
    """The ids before and after a text, as a letter shows them; None if they are not all."""
    letter = [token.id for token in tokenizer.model.tokenize("a")]
    encoding = tokenizer.encode("a")
    ids, is_special = encoding.ids, encoding.special_tokens_mask
    num_before = (*is_special, 0).index(0)
    num_after = len(ids) - num_before - len(letter)
    if is_special != [1] * num_before + [0] * len(letter) + [1] * num_after:
        return None
    return ids[:num_before], ids[num_before + len(letter) :]


def _added_tokens(tokenizer: Any) -> list[bytes] | None:
    """The added tokens, normalised; None if one does not begin a word wherever it stands.

    They are normalised, whether they are looked for before or after the text is: character by
    character, what is in the text is also in the normalised text. (A normalised text may hold more
    of them. That the text is then refused costs time only.)
    """
    added = sorted(
        {
            tokenizer.normalizer.normalize_str(token.content).encode()
            for token in tokenizer.get_added_tokens_decoder().values()
        }
    )
    marks = string.punctuation.encode()
    if any(token[:1] not in marks or not 0 < len(token) <= MAX_ADDED_BYTES for token in added):
        return None
    return added


def _characters(tokenizer: Any, openings: set[int]) -> dict[int, Character]:
    """What the tokenizer makes of each character between two letters, where that can be said."""
    codes = list(chain.from_iterable(CHARACTERS))
    text = tokenizer.normalizer.normalize_str(MARK.join(f"a{chr(code)}b" for code in codes))
    words = " ".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    characters = {}
    for code, part, split in zip(codes, text.split(MARK), words.split(f" {MARK} "), strict=True):
        inner = part[1:-1]
        kind = _kind(inner, split, openings)
        num_bytes = len(inner.encode())
        if num_bytes <= wordpiece.CHARACTER_BYTES and len(inner) <= len(chr(code).encode()):
            characters[code] = Character(kind, inner)
    return characters


def _kind(inner: str, split: str, openings: set[int]) -> int:
    """What a character is, normalised to `inner`, that splits ``ab`` in this way."""
    if split == "a b":
        return wordpiece.BLANK
    if split == f"a{inner}b":
        return wordpiece.LETTER if inner else wordpiece.DROPPED
    if split != f"a {inner} b" or len(inner) != 1:
        return wordpiece.FOREIGN
    return wordpiece.OPENING if inner.encode()[0] in openings else wordpiece.ALONE
