"""Tokenizers of the three encoder families over the fixed vocabulary, as tokenizer.json contents.

They are written out, not trained: a trained one would differ from build to build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid_infer.snapshots.tiny_words import ASCII, GREEK_AND_CYRILLIC, SUFFIXES, WORDS

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TinyTokenizer:
    """A tokenizer's two files, and what a model's configuration needs to know of it.

    Attributes:
        tokenizer: the contents of tokenizer.json.
        config: the contents of tokenizer_config.json.
        vocabulary: piece to id.
        favoured: ids that a seeded chat model should prefer to say.
    """

    tokenizer: Json
    config: Json
    vocabulary: dict[str, int]
    favoured: tuple[int, ...] = ()


def tokenizer_document(model: Json, special: dict[str, int], **parts: Any) -> Json:
    """The contents of a tokenizer.json."""
    document: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(token, number) for token, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    document.update(parts)
    return document


def added_token(token: str, number: int, *, rstrip: bool = False) -> Json:
    """One entry of ``added_tokens``."""
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": rstrip,
        "normalized": False,
        "special": True,
    }


def special_template(vocabulary: dict[str, int], before: str | None, after: str | None) -> Json:
    """The post-processor that puts special tokens around a text."""

    def special(token: str, kind: int = 0) -> Json:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def sequence(name: str, kind: int) -> Json:
        return {"Sequence": {"id": name, "type_id": kind}}

    first = [special(before)] if before else []
    last = [special(after)] if after else []
    used = {token for token in (before, after) if token}
    return {
        "type": "TemplateProcessing",
        "single": [*first, sequence("A", 0), *last],
        "pair": [*first, sequence("A", 0), *last, sequence("B", 1)]
        + ([special(after, 1)] if after else []),
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
            for token in sorted(used)
        },
    }


def _word_pieces(special: tuple[str, ...]) -> dict[str, int]:
    letters = [c for c in ASCII if not c.isupper()] + list(GREEK_AND_CYRILLIC)
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    pieces += [f"##{suffix}" for suffix in SUFFIXES if len(suffix) > 1]
    pieces += [word for word in WORDS if len(word) > 1]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _word_piece(
    special: tuple[str, ...], unknown: str, begin: str, end: str
) -> tuple[Json, dict[str, int]]:
    vocabulary = _word_pieces(special)
    model = {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocabulary,
    }
    document = tokenizer_document(
        model,
        {token: vocabulary[token] for token in special},
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=special_template(vocabulary, begin, end),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )
    return document, vocabulary


def bert() -> TinyTokenizer:
    """BERT's WordPiece: lower case, ``[CLS]`` … ``[SEP]``."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    document, vocabulary = _word_piece(special, "[UNK]", "[CLS]", "[SEP]")
    config = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    return TinyTokenizer(document, config, vocabulary)


def mpnet() -> TinyTokenizer:
    """MPNet's WordPiece: ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, as in the real one."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")
    document, vocabulary = _word_piece(special, "[UNK]", "<s>", "</s>")
    config = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "[UNK]",
        "mask_token": "<mask>",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return TinyTokenizer(document, config, vocabulary)


def t5() -> TinyTokenizer:
    """T5's Unigram model with a metaspace; pieces score by length, so that words win."""
    special = ("<pad>", "</s>", "<unk>")
    pieces: dict[str, float] = dict.fromkeys(special, 0.0)
    pieces.update({f"▁{word}": -4.0 for word in WORDS})
    pieces["▁"] = -5.0
    letters = [*ASCII, *GREEK_AND_CYRILLIC]
    pieces.update(dict.fromkeys(letters, -8.0))
    pieces.update({suffix: -6.0 for suffix in SUFFIXES if len(suffix) > 1})
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    document = tokenizer_document(
        {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": [[piece, score] for piece, score in pieces.items()],
            "byte_fallback": False,
        },
        {token: vocabulary[token] for token in special},
        normalizer={"type": "NFKC"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        post_processor=special_template(vocabulary, None, "</s>"),
        decoder=metaspace,
    )
    config = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return TinyTokenizer(document, config, vocabulary)
