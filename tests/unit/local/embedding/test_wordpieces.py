"""Our own WordPiece against Hugging Face's, token by token."""

import ast
import json
import string
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from hybrid_infer.local.embedding import wordpieces
from hybrid_infer.local.embedding.tokenizing import TextTokenizer
from hybrid_infer.local.native import wordpiece
from hybrid_infer.snapshots import tiny_tokenizers

pytestmark = pytest.mark.skipif(
    wordpiece.library() is None, reason="no tokenizer of our own: there is no C compiler"
)

TINY = {"tiny BERT": tiny_tokenizers.bert, "tiny MPNet": tiny_tokenizers.mpnet}
REAL = {"all-MiniLM-L6-v2": 256, "all-mpnet-base-v2": 384}
LIMITS = {**dict.fromkeys(TINY, 16), **REAL}


# Quotation marks, dashes, accents (in one character or two), emoji: no reason to ask the other tokenizer.
FOREIGN = ["\u6587\u5b57", "\ud55c\uae00", "\u0645\u0631\u062d\u0628\u0627", "\U0010ffff"]
NOT_ASCII = [
    "\u201cso-called\u201d \u2014 it\u2019s\u2026",
    "caf\xe9 cafe\u0301 na\xefve \xc5ngstr\xf6m Stra\xdfe",
    "\u0130stanbul \u1e9e \u03a3\u0391\u03a3 \u041c\u043e\u0441\u043a\u0432\u0430",
    "a \u2260 b \u226e unk> \u037e\u1fef",
    "5\xa0\u20ac \xbd \u200b\xad\ufeff\u2028x",
    "\u2764\ufe0f \U0001f600\U0001f3fd \u2713",
    *FOREIGN,
]


class Both:
    """A snapshot's tokenizer as the engine has it, and Hugging Face's own."""

    def __init__(self, folder, limit):
        self.ours = TextTokenizer(folder, limit)
        self.theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.theirs.no_padding()
        self.theirs.no_truncation()
        if limit is not None:
            self.theirs.enable_truncation(limit)
        self.vocabulary = sorted(self.theirs.get_vocab())
        self.added = [token.content for token in self.theirs.get_added_tokens_decoder().values()]

    @property
    def is_native(self):
        return self.ours._native is not None

    def refuses(self, text):
        """Whether the other tokenizer has to be asked."""
        return self.ours._native([text])[2] == [wordpiece.REFUSED]

    def check(self, texts):
        """Whether they agree on each of `texts`; how many tokens those have."""
        found = self.ours(texts)
        expected = self.theirs.encode_batch_fast(list(texts))
        for text, ids, encoding in zip(texts, found.ids, expected, strict=True):
            assert ids.tolist() == encoding.ids, text
        assert list(found.cut) == [
            number for number, encoding in enumerate(expected) if encoding.overflowing
        ]
        return sum(len(encoding.ids) for encoding in expected)


def staged(folder, tokenizer):
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer) if isinstance(tokenizer, dict) else tokenizer.to_str()
    )
    return folder


@pytest.fixture(scope="module", params=LIMITS)
def both(request, tmp_path_factory):
    name = request.param
    if name in TINY:
        folder = staged(tmp_path_factory.mktemp("tokenizer"), TINY[name]().tokenizer)
    else:
        folder = request.getfixturevalue("weights") / name
        if not folder.is_dir():
            pytest.skip("these weights were not fetched; ./scripts/test without --fast does")
    both = Both(folder, LIMITS[name])
    assert both.is_native
    return both


def texts_of(both, characters):
    """Texts of what may go wrong: any character, pieces, marks, long words, added tokens."""
    any_case = st.sampled_from(both.added).flatmap(
        lambda token: st.sampled_from([token, token.lower(), token.upper(), token[1:], token[:-1]])
    )
    part = st.one_of(
        st.text(characters, max_size=8),
        st.sampled_from(both.vocabulary),
        st.sampled_from(both.vocabulary).map(str.upper),
        st.text(string.punctuation, max_size=12),
        st.integers(90, 300).flatmap(lambda n: st.sampled_from("aQ").map(lambda c: c * n)),
        any_case,
        any_case.map("\x7f".join),
    )
    return st.lists(part, max_size=12).flatmap(
        lambda parts: st.sampled_from([" ", "", "\t", "\x00"]).map(lambda gap: gap.join(parts))
    )


ascii_characters = st.characters(max_codepoint=127)
module_fixture = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@module_fixture
@given(data=st.data())
def test_ascii_texts_have_the_same_tokens(both, data):
    both.check(data.draw(st.lists(texts_of(both, ascii_characters), max_size=5)))


@module_fixture
@given(data=st.data())
def test_any_texts_have_the_same_tokens_and_keep_their_places(both, data):
    both.check(data.draw(st.lists(texts_of(both, st.characters(codec="utf-8")), max_size=5)))


@module_fixture
@given(data=st.data())
def test_texts_of_the_table_s_characters_have_the_same_tokens(both, data):
    codes = st.sampled_from(wordpieces.CHARACTERS).flatmap(st.sampled_from)
    both.check(data.draw(st.lists(texts_of(both, codes.map(chr)), max_size=5)))


def test_marks_and_letters_of_other_scripts_have_the_same_tokens(both):
    for text in NOT_ASCII:
        both.check([text, text.upper(), f"<{text}>", f"a{text}a", " ".join(text)])
        assert both.refuses(text) == (text in FOREIGN)


def test_a_word_that_is_cut_may_go_on_in_another_script(both):
    limit = both.ours.max_seq_length
    for count in range(limit - 4, limit + 2):
        both.check(
            ["! " * count + f"{word}{text}" for text in NOT_ASCII for word in ("", "a", "qqq")]
        )
        both.check(["q" * count + text for text in NOT_ASCII])


def test_every_character_of_the_table_wherever_it_stands(both):
    characters = [chr(code) for codes in wordpieces.CHARACTERS for code in codes]
    for around in ("{}", "a{}", "{}b", "a{}b", "e{}\u0301", "\u0323{}", "<{}>", "<{}mask>"):
        both.check([around.format(character) for character in characters])
    both.check([first + second for first in characters[:128] for second in characters[:256]])


@pytest.mark.parametrize("count", [0, 1, 63, 98, 99, 100, 101, 254, 255, 256, 257, 10_000])
def test_long_words_are_unknown(both, count):
    for letter in "az":
        word = letter * count
        both.check([word, f"{word} {word}", f"b{word}", f"{word}!", f"{word}\x01{letter}"])


def test_empty_texts_and_blanks(both):
    both.check([])
    both.check([""])
    both.check(["", " ", "\t\n\r", "\x00", "\x0b\x0c", "a", "", " " * 5_000])


def test_added_tokens_are_left_to_the_other_tokenizer(both):
    for token in both.added:
        for form in (token, token.lower(), token.upper(), "\x00".join(token), f" {token} "):
            both.check([form, f"a{form}b", f"[<{form}>]", f"words {form} words " * 200])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("limit", [None, *range(24)])
def test_every_limit_cuts_where_the_other_tokenizer_does(tmp_path, name, limit):
    both = Both(staged(tmp_path, TINY[name]().tokenizer), limit)
    assert both.is_native == (limit is None or limit >= 2)
    if limit == 0:  # Hugging Face's tokenizer panics
        return
    words = "the tokenization of unbelievable, strange words: qqqq " + "x" * 101
    both.check([words[:length] for length in range(len(words) + 1)])
    both.check(["<mask>" + words, words + "[MASK]", " ", "", "é" + words])


@pytest.mark.real_weights
@pytest.mark.parametrize("name", REAL)
def test_each_limit_of_a_real_tokenizer(weights, name):
    if not (weights / name).is_dir():
        pytest.skip("these weights were not fetched; ./scripts/test without --fast does")
    for limit in (2, 3, 7, REAL[name], None):
        Both(weights / name, limit).check([ast.__doc__[:n] for n in range(0, 1_500, 7)])


@pytest.mark.parametrize("package", ["email", "asyncio", "json", "xml"])
def test_sources_and_docstrings_of_the_standard_library(both, package):
    texts = []
    for file in sorted(Path(sysconfig.get_path("stdlib"), package).rglob("*.py")):
        source = file.read_text()
        texts += [source, *source.splitlines()]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                texts.append(ast.get_docstring(node) or "")
    assert both.check(texts) > 2 * len(texts) > 1_000


# Other tokenizers ----------------------------------------------------------------------------------

pieces = st.text("ab-[éi\u0307", min_size=1, max_size=4)


@st.composite
def any_word_piece(draw):
    """A WordPiece of few pieces, configured in any way."""
    prefix = draw(st.sampled_from(["##", "", "-", "b", "é"]))
    words = draw(st.sets(st.one_of(pieces, pieces.map(lambda piece: prefix + piece)), max_size=12))
    vocabulary = {piece: number for number, piece in enumerate(["[UNK]", *sorted(words)])}
    tokenizer = Tokenizer(
        models.WordPiece(
            vocabulary,
            unk_token="[UNK]",
            max_input_chars_per_word=draw(st.sampled_from([1, 3, 100, 254, 255])),
            continuing_subword_prefix=prefix,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(*draw(st.tuples(*[st.booleans()] * 4)))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    contents = st.builds(str.__add__, st.sampled_from("[[[aé"), st.text("abA[é文 \x01", max_size=2))
    # At most one: of two that are normalised alike, Hugging Face's finds now this one, now that.
    for content in draw(st.lists(contents, max_size=1)):
        token = AddedToken(content, **{flag: draw(st.booleans()) for flag in flags})
        tokenizer.add_tokens([token])
    tokenizer.post_processor = draw(
        st.sampled_from(
            [
                None,
                processors.BertProcessing(("[SEP]", 5), ("[CLS]", 6)),
                processors.RobertaProcessing(("</s>", 5), ("<s>", 6)),
                processors.TemplateProcessing("[X] [X] $A", special_tokens=[("[X]", 7)]),
                processors.TemplateProcessing("$A [X] $A", special_tokens=[("[X]", 7)]),
            ]
        )
    )
    return tokenizer


@settings(deadline=None, max_examples=300)
@given(
    any_word_piece(),
    st.lists(st.text("abA[]-éİ\u0301\u226e文 \xa0\x01\t\x0b", max_size=9)),
    st.integers(2, 9),
)
def test_any_configuration(tmp_path_factory, tokenizer, texts, limit):
    Both(staged(tmp_path_factory.mktemp("tokenizer"), tokenizer), limit).check(texts)


def test_an_added_token_may_end_within_what_a_character_becomes(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[": 1, "i\u0307": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_tokens([AddedToken("[i", normalized=True)])
    both = Both(staged(tmp_path, tokenizer), 8)
    assert both.is_native
    assert both.refuses("[\u0130")
    both.check(["[\u0130", "\u0130", "[ \u0130"])


STEPS = {
    "another model": {"model": models.WordLevel({"[UNK]": 0}, "[UNK]")},
    "another normalizer": {"normalizer": normalizers.Lowercase()},
    "more steps": {"normalizer": normalizers.Sequence([normalizers.BertNormalizer()])},
    "another pre-tokenizer": {"pre_tokenizer": pre_tokenizers.Whitespace()},
    "another post-processor": {"post_processor": processors.ByteLevel()},
    "no text": {
        "post_processor": processors.TemplateProcessing("[X]", special_tokens=[("[X]", 7)])
    },
    "two texts": {"post_processor": processors.TemplateProcessing("$A $A")},
    "long words": {"model": models.WordPiece({"[UNK]": 0}, max_input_chars_per_word=300)},
    "no unknown": {"model": models.WordPiece({"a": 0})},
}


@pytest.mark.parametrize("step", [None, *STEPS])
def test_only_what_is_bert_s_is_done_here(step):
    tokenizer = Tokenizer.from_str(json.dumps(tiny_tokenizers.bert().tokenizer))
    for name, value in STEPS.get(step, {}).items():
        setattr(tokenizer, name, value)
    assert (wordpieces.native_tokenizer(tokenizer, 8) is None) == (step is not None)


@pytest.mark.parametrize("content", ["word", " [X]", "[" * 256])
def test_an_added_token_that_is_no_word_of_its_own_is_not_looked_for(content):
    tokenizer = Tokenizer.from_str(json.dumps(tiny_tokenizers.bert().tokenizer))
    tokenizer.add_tokens([content])
    assert wordpieces.native_tokenizer(tokenizer, 8) is None


def test_without_a_library_there_is_one_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(wordpiece, "library", lambda: None)
    both = Both(staged(tmp_path, tiny_tokenizers.bert().tokenizer), 8)
    assert not both.is_native
    both.check(["a word", "", "[MASK]", "é"])


def test_a_lone_surrogate_is_no_text():
    tokenizer = Tokenizer.from_str(json.dumps(tiny_tokenizers.bert().tokenizer))
    with pytest.raises(UnicodeEncodeError):
        wordpieces.native_tokenizer(tokenizer, 8)(["plain", "\ud800"])
