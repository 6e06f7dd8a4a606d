"""Tokenizers and chat templates of the two chat families over the fixed vocabulary."""

from __future__ import annotations

from hybrid_infer.snapshots.byte_letters import byte_letters
from hybrid_infer.snapshots.tiny_tokenizers import (
    Json,
    TinyTokenizer,
    added_token,
    special_template,
    tokenizer_document,
)
from hybrid_infer.snapshots.tiny_words import ASCII, GREEK_AND_CYRILLIC, WORDS

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


def _llama_pre_tokenizer(byte_level: Json) -> Json:
    split = {
        "type": "Split",
        "pattern": {"Regex": LLAMA_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}


def llama() -> TinyTokenizer:
    """Llama 3's byte-level BPE with its special tokens and chat template."""
    letters = byte_letters()
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
    document = tokenizer_document(
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
        pre_tokenizer=_llama_pre_tokenizer(byte_level),
        post_processor=special_template({**vocabulary, **special}, "<|begin_of_text|>", None),
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


_PHI_NORMALIZER: Json = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
_PHI_DECODER: Json = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


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
    document = tokenizer_document(
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
        normalizer=_PHI_NORMALIZER,
        decoder=_PHI_DECODER,
    )
    document["added_tokens"] += [
        added_token(role, number, rstrip=role != "<|endoftext|>")
        for role, number in special.items()
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
