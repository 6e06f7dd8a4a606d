"""Texts to tokens: what is cut, what is put in front, what is lower-cased, and what it costs."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from hybrid_infer.client.texts import cut_long_text
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.embedding.tokenizing import TextTokenizer

WORDS = ["[UNK]", "hello", "Hello", "world", "[SEP]", "ask", ":"]


@pytest.fixture
def snapshot(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[SEP]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def words(tokenized):
    return [[WORDS[number] for number in ids] for ids in tokenized.ids]


def test_cutting_is_reported(snapshot):
    tokenized = TextTokenizer(snapshot, 2)(["hello", "hello world", "hello world hello"])
    assert words(tokenized) == [["hello"], ["hello", "world"], ["hello", "world"]]
    assert list(tokenized.cut) == [2]


def test_the_prompt_comes_first(snapshot):
    tokenized = TextTokenizer(snapshot, None, "ask: ")(["hello"])
    assert words(tokenized) == [["ask", ":", "hello"]]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_lower_casing_spares_special_tokens(snapshot, family):
    assert words(TextTokenizer(snapshot, None)(["Hello [SEP]"])) == [["Hello", "[SEP]"]]
    stated = {"max_seq_length": 8, "do_lower_case": True}
    (snapshot / f"sentence_{family}_config.json").write_text(json.dumps(stated))
    assert words(TextTokenizer(snapshot, None)(["Hello [SEP]"])) == [["hello", "[SEP]"]]


def test_a_damaged_file_is_named(snapshot):
    (snapshot / "tokenizer.json").write_text("{")
    with pytest.raises(ModelIntegrityError, match=r"tokenizer\.json"):
        TextTokenizer(snapshot, 8)


def test_threads_share_a_tokenizer(snapshot):
    tokenizer = TextTokenizer(snapshot, 4)
    texts = ["hello " * (index % 7) for index in range(1_000)]
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(lambda text: len(tokenizer([text]).ids[0]), texts))
    assert counts == [min(index % 7, 4) for index in range(1_000)]


SIZE = 200_000
LONG = {
    "words": ("lorem ipsum dolor ", SIZE),
    "blanks": (" ", SIZE),
    "one word": ("x", SIZE),
    "lines": ("word\n\n\t", SIZE),
    "ideographs": ("文字", SIZE),
    "millions of characters": ("lorem ipsum dolor ", 5_000_000),
}


@pytest.mark.real_weights
@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def test_a_giant_text_gives_the_tokens_of_the_whole_once_it_is_cut(weights, model, kind):
    if not (weights / model).is_dir():
        pytest.skip("these weights were not fetched; ./scripts/test without --fast does")
    tokenizer = TextTokenizer(weights / model, 256)
    part, characters = LONG[kind]
    text = "a" + part * (characters // len(part)) + "b"
    cut = cut_long_text(text, 256)
    assert len(cut.text) < len(text) / 10
    (ids,), (whole,) = tokenizer([cut.text]).ids, tokenizer([text]).ids
    assert ids.tolist() == whole.tolist()
