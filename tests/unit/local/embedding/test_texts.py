"""The texts of one request are tokenised slice by slice."""

from itertools import pairwise

import pytest

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.local.embedding import texts as module
from hybrid_infer.local.embedding.texts import RequestTexts
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts
from hybrid_infer.local.embedding.tokens import Tokens

SPEC = ModelSpec("embeddings", "small", "some/model", None)


def slices_of(texts):
    """All slices, as lists of texts."""
    request = RequestTexts(EmbedRequest(SPEC, tuple(texts)))
    found = []
    while not request.is_tokenized:
        found.append(request.next_slice())
        tokens = Tokens.of([0] for _ in found[-1])
        request.take_tokens(TokenizedTexts(tokens, ()), None)
    return found


def numbered(lengths):
    """Texts of these lengths, none twice, of seven characters at least."""
    return [f"{number:06}".ljust(length, ".") for number, length in enumerate(lengths)]


@pytest.mark.parametrize(
    "lengths",
    [
        [7],
        [9, 8, 7],
        [7 + 37 * number % 400 for number in range(3_000)],
        [7] * 2_500,
        [40_000, 7, 300_000, 33_000, 32_767, 32_768, 7],  # longer than what is sorted
    ],
)
def test_every_text_is_in_one_slice_and_no_slice_is_larger_than_it_may_be(lengths):
    texts = numbered(lengths)
    slices = slices_of(texts)
    assert sorted(text for part in slices for text in part) == sorted(texts)
    most = module.CHARACTERS_PER_SLICE
    for part in slices:
        assert 0 < len(part) <= module.TEXTS_PER_SLICE
        assert len(part) == 1 or sum(map(len, part)) <= most
        most = min(2 * most, module.MOST_CHARACTERS_PER_SLICE)


def test_the_longest_come_first_and_equals_in_their_order(monkeypatch):
    monkeypatch.setattr(module, "TEXTS_PER_SORT", 100)
    texts = numbered([7 + 37 * number % 50 for number in range(250)])
    found = [text for part in slices_of(texts) for text in part]
    for first in (0, 100, 200):
        part = found[first : first + 100]
        assert sorted(part) == sorted(texts[first : first + 100])
        for one, other in pairwise(part):
            assert (len(one), other) > (len(other), one)


def test_a_text_that_comes_twice_is_tokenised_once():
    assert slices_of(["aa", "b", "aa", "cccc", "b"]) == [["cccc", "aa", "b"]]
