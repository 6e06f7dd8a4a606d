from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.client.texts import cut_long_text


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


def test_blank_runs_collapse_and_cost_no_words():
    cut, is_truncated = cut_long_text("a" + " " * 5_000_000 + "b", 256)
    assert (cut, is_truncated) == ("a b", False)


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
        assert mine == theirs or len(mine) == window * 64
