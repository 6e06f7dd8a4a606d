"""Log-probabilities: the numbers, the spelling, and that they keep step with the text."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.local.generation.logprobs import EntryQueue, logprob_entry
from hybrid_infer.local.generation.spelling import piece_bytes


def test_they_are_the_log_softmax_of_the_model_s_own_logits():
    logits = (np.random.default_rng(3).normal(0, 4, 300)).astype(np.float32)
    expected = torch.from_numpy(logits).double().log_softmax(-1)
    entry = logprob_entry(logits, 17, 5, lambda token: f"t{token}".encode())
    assert entry["token"] == "t17"
    assert entry["bytes"] == list(b"t17")
    assert abs(entry["logprob"] - float(expected[17])) < 1e-5
    values, tokens = expected.topk(5)
    tops = entry["top_logprobs"]
    assert [top["token"] for top in tops] == [f"t{token}" for token in tokens]
    np.testing.assert_allclose([top["logprob"] for top in tops], values, atol=1e-5)


def test_no_tops_and_more_than_there_are():
    logits = np.zeros(3, np.float32)
    assert logprob_entry(logits, 0, 0, lambda _: b"x")["top_logprobs"] == []
    assert len(logprob_entry(logits, 0, 20, lambda _: b"x")["top_logprobs"]) == 3


def test_a_part_of_a_character_has_bytes_that_are_no_text():
    entry = logprob_entry(np.zeros(1, np.float32), 0, 0, lambda _: "é".encode()[:1])
    assert entry["bytes"] == [0xC3]
    assert entry["token"] == "\ufffd"


def test_pieces_spell_bytes():
    assert piece_bytes("Ġthe", is_byte_level=True) == b" the"
    assert piece_bytes("Ã", is_byte_level=True) == b"\xc3"
    assert piece_bytes("<|終|>", is_byte_level=True) == "<|終|>".encode()
    assert piece_bytes("▁the", is_byte_level=False) == b" the"
    assert piece_bytes("<0xE2>", is_byte_level=False) == b"\xe2"


PIECES = st.lists(st.text("ab", max_size=3), max_size=12)


@given(PIECES, st.integers(0, 40), st.integers(1, 4))
def test_each_entry_goes_out_once_in_order_and_not_before_its_text(pieces, cut_at, lag):
    """Pieces are what each token adds to the text; it goes out `lag` characters late."""
    queue, spelled, out, given_out = EntryQueue(), "", "", []
    for index, piece in enumerate(pieces):
        queue.push({"token": index})
        queue.spelled(piece)
        spelled += piece
        new = spelled[len(out) : max(len(out), len(spelled) - lag)]
        out += new
        given_out += queue.released(new)
        known = [entry["token"] for entry in given_out]
        assert len("".join(pieces[: len(known)])) <= len(out)
    is_cut = cut_at < len(spelled)
    rest = spelled[len(out) : max(len(out), cut_at)] if is_cut else spelled[len(out) :]
    out += rest
    given_out += queue.released(rest) + queue.rest(is_cut=is_cut)
    tokens = [entry["token"] for entry in given_out]
    assert tokens == list(range(len(tokens)))
    if is_cut:  # every token of which any character is out, and none of which none is
        assert len("".join(pieces[: len(tokens)])) >= len(out)
        starts = [len("".join(pieces[:token])) for token in tokens]
        assert all(start < len(out) for start in starts)
    else:
        assert len(tokens) == len(pieces)
