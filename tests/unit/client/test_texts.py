import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.datatypes.long_texts import cut_long_text


def words(count):
    return " ".join(f"word{i}" for i in range(count))


def test_ordinary_texts_stay_as_they_are():
    for text in ("", " ", "a", words(200), "x" * 2048):
        assert cut_long_text(text, 256) == (text, False)


def test_words_beyond_the_window_go():
    cut, is_truncated = cut_long_text(words(5_000), 256)
    assert is_truncated
    assert cut == words(256)


def test_a_text_of_exactly_the_window_is_whole():
    text = " ".join(["abcdefghijklmnop"] * 256)
    assert cut_long_text(text, 256) == (text, False)


def test_one_endless_word_is_cut():
    cut, is_truncated = cut_long_text("x" * 5_000_000, 256)
    assert is_truncated
    assert len(cut) == 256 * 64


@pytest.mark.parametrize("filler", [" ", "\n", "\u200b ", "\u0301 ", "\ue000\t"])
def test_long_blanks_are_shortened_and_cost_no_words(filler):
    cut, is_truncated = cut_long_text("a" + filler * 2_000_000 + "b", 256)
    assert not is_truncated
    assert cut == "a" + (filler * 2_000_000)[: 256 * 64] + " b"


def test_what_may_be_dropped_is_no_word_and_no_part_of_one():
    dropped = "\u00ad\u200b\x01\x1f\x85\u0301\ue000\ufffd"
    for text in (" ".join(dropped * 300) + " hello there", dropped * 3_000 + "hello there"):
        cut, is_truncated = cut_long_text(text, 256)
        assert not is_truncated
        assert cut.endswith("hello there")
    inner = "hel" + "\u00ad" * 50_000 + "lo"
    assert cut_long_text(inner, 256) == ("hel" + "\u00ad" * (256 * 64) + "lo", False)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (" " * 20_000 + "\u00adhello", " \u00adhello"),
        ("hi" + "\n" * 20_000 + "\u06dd x", "\n \u06dd x"),
        ("a" + "\u0301" * 20_000 + " \u0301b", "\u0301 \u0301b"),
    ],
)
def test_what_one_tokenizer_drops_and_another_does_not_stays_behind_long_blanks(text, end):
    cut, is_truncated = cut_long_text(text, 256)
    assert not is_truncated
    assert cut.endswith(end)


def test_words_of_nothing_but_vowel_signs_are_cut_too():
    cut, _ = cut_long_text("\u0903 " * 2_000_000, 256)
    assert len(cut) <= 256 * 64 + 1


def test_many_runs_of_blanks_take_no_longer_than_they_are():
    text = (" " * 16_000 + "\u00ad") * 20 + "\u06dd" + " " * 20_000 + "b"
    cut, _ = cut_long_text(text, 256)
    assert cut.endswith(" b")
    assert len(cut) < len(text)


def test_controls_separate_no_words():
    text = "a\x1cb\x0bc\x85" * 1_000 + " end"
    assert cut_long_text(text, 256) == (text, False)


def test_marks_and_symbols_are_words():
    cut, is_truncated = cut_long_text("\N{PARTY POPPER} \u2014 \u6587 " * 1_000, 256)
    assert is_truncated
    assert len(cut.split()) == 256


@settings(max_examples=200)
@given(
    st.lists(st.text(alphabet="ab \n\t,", max_size=4_000), max_size=5).map("".join),
    st.integers(1, 40),
)
def test_the_first_words_always_survive(text, window):
    cut, is_truncated = cut_long_text(text, window)
    kept, original = cut.split(), text.split()
    if not is_truncated:
        assert kept == original
    assert len(kept) <= max(len(original), 0)
    for mine, theirs in zip(kept, original, strict=False):
        assert theirs.startswith(mine)
        assert mine == theirs or len(mine) >= max(2_048, window * 64)
