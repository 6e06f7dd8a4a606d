"""Which tokenizers our own WordPiece can stand in for, on ASCII texts."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

from hybrid_infer.local.native import wordpiece
from hybrid_infer.local.native.wordpiece import Rules, WordPiece

# BertNormalizer makes spaces of these and drops all other control characters.
LINE_BLANKS = "\t\n\r"
RUST_BLANKS = "\t\n\v\f\r "  # char::is_whitespace of Rust, as far as it is ASCII
MAX_ADDED_BYTES = 255  # of an added token, which the C code keeps behind its length


def ascii_tokenizer(tokenizer: Any, max_seq_length: int | None) -> WordPiece | None:
    """What gives the same ids for ASCII texts without added tokens; None if nothing here does.

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
    """What BERT's tokenizer does with ASCII; None if it is configured beyond what `Rules` can say."""
    model, normalizer = tokenizer.model, tokenizer.normalizer
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    added = _added_tokens(tokenizer)
    if (
        model.unk_token not in vocabulary
        or not model.continuing_subword_prefix.isascii()
        or model.max_input_chars_per_word > wordpiece.MAX_CHARACTERS
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
        kinds=_kinds(normalizer.clean_text, {token[0] for token in added}),
        plain=_plain(normalizer.clean_text, normalizer.lowercase),
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
    """The added tokens that an ASCII text can hold; None if one does not begin a word anyway.

    They are normalised, whether they are looked for before or after the text is: byte by byte, what
    is in the text is also in the normalised text. (A normalised text may hold more of them. That
    the text is then refused costs time only.)
    """
    contents = {
        tokenizer.normalizer.normalize_str(token.content)
        for token in tokenizer.get_added_tokens_decoder().values()
    }
    added = sorted(content.encode() for content in contents if content.isascii())
    for token in added:
        if token[:1] not in _each(string.punctuation) or len(token) > MAX_ADDED_BYTES:
            return None
    return added


def _each(characters: str) -> Iterable[bytes]:
    return {character.encode() for character in characters}


def _kinds(clean: bool, openings: set[int]) -> bytes:
    """What each byte is to the pre-tokenizer, behind the normalizer."""
    kinds = bytearray(wordpiece.NUM_BYTES)  # letters
    if clean:
        for byte in (*range(ord(" ")), 127):
            kinds[byte] = wordpiece.DROPPED
    for blank in LINE_BLANKS + " " if clean else RUST_BLANKS:
        kinds[ord(blank)] = wordpiece.BLANK
    for mark in string.punctuation.encode():
        kinds[mark] = wordpiece.OPENING if mark in openings else wordpiece.PUNCTUATION
    return bytes(kinds)


def _plain(clean: bool, lowercase: bool) -> bytes:
    """What the normalizer makes of each byte that it does not drop."""
    text = bytes(range(wordpiece.NUM_BYTES))
    if clean:
        text = text.translate(bytes.maketrans(LINE_BLANKS.encode(), b" " * len(LINE_BLANKS)))
    return text.lower() if lowercase else text
