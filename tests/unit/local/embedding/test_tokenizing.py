"""Texts to tokens: what is cut, what is put in front, what is lower-cased, and what it costs."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from hybrid_infer.datatypes.long_texts import cut_long_text
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.local.embedding import tokenizing
from hybrid_infer.local.embedding.tokenizing import TextTokenizer
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

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


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("sentence_bert_config.json", {"tokenizer_args": {"truncation_side": "left"}}),
        ("tokenizer.json", None),
    ],
)
def test_a_tokenizer_that_cuts_at_the_left_is_refused(snapshot, file, content):
    if content is None:
        tokenizer = Tokenizer.from_file(str(snapshot / file))
        tokenizer.enable_truncation(8, direction="left")
        tokenizer.save(str(snapshot / file))
    else:
        (snapshot / file).write_text(json.dumps(content))
    with pytest.raises(ModelIntegrityError, match="truncation_side: left"):
        TextTokenizer(snapshot, 8)
    (snapshot / "tokenizer_config.json").write_text(json.dumps({"truncation_side": "right"}))
    if file != "sentence_bert_config.json":
        assert words(TextTokenizer(snapshot, 1)(["hello world"])) == [["hello"]]


def test_threads_share_a_tokenizer(snapshot):
    tokenizer = TextTokenizer(snapshot, 4)
    texts = ["hello " * (index % 7) for index in range(1_000)]
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(lambda text: len(tokenizer([text]).ids[0]), texts))
    assert counts == [min(index % 7, 4) for index in range(1_000)]


def uncut(folder, text, most):
    """The ids of a text that nothing shortens before the tokenizer has all of it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    return tokenizer.encode(text).ids


@pytest.fixture(scope="module")
def over_bytes(tmp_path_factory):
    """A tokenizer as RoBERTa's: blanks and whatever else make tokens."""
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["hello there world " * 20, " " * 64, "\n" * 32]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, max_token_length=64
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


SCATTERED = {
    "words of nothing": " ".join(["\u200b"] * 1_100) + " hello there",
    "soft hyphens": "\u00ad" * 17_000 + "hello there",
    "soft hyphens in a word": "hel" + "\u00ad" * 17_000 + "lo there",
    "blanks": "hello" + " " * 3_000 + "there world",
    "many blanks": "hello" + " " * 20_000 + "there world",
    "lines": "hello" + "\n" * 3_000 + "there" + "\n \t" * 20_000 + "world",
    "accents": "hello " + "\u0301" * 3_000 + " there " + " ".join("e\u0301a" * 3_000),
    "controls": "a\x1c" * 2_000 + " hello there",
    "an unknown word": "x" * 20_000 + "! hello there",
    "unknown words, joined": ("x" * 20_000 + "-") * 3 + "hello there",
    "a long known word": "hello" * 5_000 + ".there",
    "letters around an ideograph": "x" * 20_000 + "文" + "x" * 20_000 + " hello",
    "long words with marks": "a/" * 20_000 + " hello",
}


@pytest.mark.parametrize("text", SCATTERED.values(), ids=SCATTERED)
@pytest.mark.parametrize("alias", ["small", "default", "large", None])
def test_what_is_cut_reaches_no_tokenizer(over_bytes, alias, text):
    folder = over_bytes
    if alias is not None:
        folder = find_snapshot(load_registry(profile="tiny").resolve("embeddings", alias))
    (ids,) = TextTokenizer(folder, 256)([cut_long_text(text, 256).text]).ids
    (whole,) = TextTokenizer(folder, 256)([text]).ids
    assert ids.tolist() == whole.tolist() == uncut(folder, text, 256)


@pytest.mark.parametrize("part", ["文", "word ", "word\n"])
@pytest.mark.parametrize("alias", ["small", "large", None])
def test_an_endless_text_is_shortened_before_it_is_tokenised(over_bytes, alias, part, monkeypatch):
    folder = over_bytes
    if alias is not None:
        folder = find_snapshot(load_registry(profile="tiny").resolve("embeddings", alias))
    monkeypatch.setattr(tokenizing, "native_tokenizer", lambda *_: None)  # it stops by itself
    tokenizer, seen = TextTokenizer(folder, 64), []
    shorten = tokenizer._shortened
    monkeypatch.setattr(tokenizer, "_shortened", lambda texts: seen.extend(shorten(texts)) or seen)
    texts = ["hello", part * (1_000_000 // len(part)), "a " * 1_500, "hello " * 5]
    found = tokenizer(texts)
    assert max(map(len, seen)) <= 65 * 64
    lengths = [
        len(uncut(folder, text, 10**6)) for text in texts
    ]  # T5 knows no ideograph: one token
    assert list(found.cut) == [number for number, length in enumerate(lengths) if length > 64]
    assert [ids.tolist() for ids in found.ids] == [uncut(folder, text, 64) for text in texts]


def test_a_text_of_more_words_than_tokens_fit_is_cut_without_special_tokens_too(snapshot):
    found = TextTokenizer(snapshot, 1_000)(["hello " * 1_000, "hello " * 1_001])
    assert (found.ids.lengths, list(found.cut)) == ([1_000, 1_000], [1])


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
    part, characters = LONG[kind]
    text = "a" + part * (characters // len(part)) + "b"
    assert len(cut_long_text(text, 256).text) < len(text) / 10
    (ids,) = TextTokenizer(weights / model, 256)([cut_long_text(text, 256).text]).ids
    assert ids.tolist() == uncut(weights / model, text, 256)
