"""Tokenizers of the five families over the fixed vocabulary, as tokenizer.json contents.

They are written out, not trained: a trained one would differ from build to build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid_infer.snapshots.tiny_words import ASCII, GREEK_AND_CYRILLIC, SUFFIXES, WORDS

Json = dict[str, Any]

LLAMA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The pre-tokenizer's pattern of the Llama 3 family.
LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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


def _document(model: Json, special: dict[str, int], **parts: Any) -> Json:
    document: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, number) for token, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    document.update(parts)
    return document


def _added(token: str, number: int, *, rstrip: bool = False) -> Json:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": rstrip,
        "normalized": False,
        "special": True,
    }


def _template(vocabulary: dict[str, int], before: str | None, after: str | None) -> Json:
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
    document = _document(
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
        post_processor=_template(vocabulary, begin, end),
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
    document = _document(
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
        post_processor=_template(vocabulary, None, "</s>"),
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


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte (openai/gpt-2, src/encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    spare = (chr(0x100 + offset) for offset in range(256))
    for byte in range(256):
        if byte not in letters:
            letters[byte] = next(spare)
    return letters


def _chained_merges(vocabulary: dict[str, int], space: str) -> tuple[list[list[str]], list[int]]:
    """Merges that build each word from its first letter on; adds every prefix to `vocabulary`."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        built = space
        for letter in word:
            merges[built, letter] = None
            built += letter
            vocabulary.setdefault(built, len(vocabulary))
    return [list(pair) for pair in merges], [vocabulary[space + word] for word in WORDS]


def llama() -> TinyTokenizer:
    """Llama 3's byte-level BPE with its special tokens and chat template."""
    letters = _byte_letters()
    vocabulary = {letters[byte]: number for number, byte in enumerate(range(256))}
    merges, favoured = _chained_merges(vocabulary, letters[0x20])
    special = {
        token: len(vocabulary) + offset
        for offset, token in enumerate(
            (
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
            )
        )
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    document = _document(
        {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": dict(vocabulary),
            "merges": merges,
        },
        special,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": LLAMA_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**byte_level, "use_regex": False},
            ],
        },
        post_processor=_template({**vocabulary, **special}, "<|begin_of_text|>", None),
        decoder={**byte_level, "use_regex": True},
    )
    config = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "chat_template": LLAMA_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return TinyTokenizer(document, config, {**vocabulary, **special}, tuple(favoured))


def phi() -> TinyTokenizer:
    """Phi-3's tokenizer: Llama 2's BPE with byte fallback, and role tokens that eat blanks."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for letter in ("▁", *ASCII, *GREEK_AND_CYRILLIC):
        vocabulary.setdefault(letter, len(vocabulary))
    merges, favoured = _chained_merges(vocabulary, "▁")
    roles = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    special = {token: len(vocabulary) + offset for offset, token in enumerate(roles)}
    base = {token: vocabulary[token] for token in ("<unk>", "<s>", "</s>")}
    document = _document(
        {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": dict(vocabulary),
            "merges": merges,
        },
        base,
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    )
    document["added_tokens"] += [
        _added(role, number, rstrip=role != "<|endoftext|>") for role, number in special.items()
    ]
    config = {
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "chat_template": PHI_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return TinyTokenizer(document, config, {**vocabulary, **special}, tuple(favoured))
