"""The decisions that need no model: room for an answer, text as it comes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.errors import ContextLengthError
from hybrid_infer.local.generation.prompting import room_left
from hybrid_infer.local.generation.streaming import Detokenizer, StopMatcher
from hybrid_infer.local.weights import Linear, can_prepack


@given(st.text(max_size=60))
def test_characters_are_never_split(text):
    raw = text.encode("utf-8", "ignore")
    detokenizer = Detokenizer(lambda ids: bytes(ids).decode("utf-8", "replace"))
    pieces = [detokenizer.push(byte) for byte in raw]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == raw.decode()
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def fallen_back(ids):
    """Bytes as tokenizers with byte fallback read them: a run is text, or nothing of it is."""
    runs = [
        (is_text, bytes(run)) for is_text, run in itertools.groupby(ids, lambda byte: byte < 128)
    ]
    out = ""
    for is_text, run in runs:
        try:
            out += run.decode()
        except UnicodeDecodeError:
            assert not is_text
            out += "\ufffd" * len(run)
    return out


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("after", ["", "b"])
def test_a_cut_character_takes_nothing_from_those_before(count, after):
    detokenizer = Detokenizer(fallen_back)
    raw = "a🎉🎉".encode() + "🎉".encode()[:count] + after.encode()
    out = "".join([*map(detokenizer.push, raw), detokenizer.flush()])
    assert out == "a🎉🎉" + "\ufffd" * count + after


@given(
    st.text(alphabet="abc", max_size=40),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
def test_stop_strings_end_the_text_wherever_pieces_break(text, stops, size):
    matcher = StopMatcher(stops)
    out = ""
    for start in range(0, len(text), size):
        out += matcher.push(text[start : start + size])
        if matcher.has_stopped():
            break
    else:
        out += matcher.flush()
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        assert out == text
        assert not matcher.has_stopped()
        return
    assert matcher.has_stopped()
    assert not any(stop in out for stop in stops)
    assert text.startswith(out)


@pytest.mark.parametrize(
    ("prompt", "asked", "may_shrink", "expected"),
    [(10, 5, False, 5), (10, 90, False, 90), (10, 1024, True, 90), (99, 1, False, 1)],
)
def test_room_left(prompt, asked, may_shrink, expected):
    assert room_left(prompt, asked, 100, may_shrink=may_shrink, name="m") == expected


@pytest.mark.parametrize(
    ("prompt", "asked", "may_shrink", "argument"),
    [(10, 91, False, "max_tokens"), (100, 1, True, "messages"), (500, 1, False, "messages")],
)
def test_what_cannot_fit_names_both_numbers(prompt, asked, may_shrink, argument):
    with pytest.raises(ContextLengthError, match=rf"{prompt} tokens.*100") as caught:
        room_left(prompt, asked, 100, may_shrink=may_shrink, name="m")
    assert caught.value.argument == argument


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_prepacked_linear_computes_what_a_plain_one_does(monkeypatch, dtype):
    from hybrid_infer.local import weights

    weight, bias = torch.randn(24, 16).to(dtype), torch.randn(24).to(dtype)
    x, residual = torch.randn(7, 16).to(dtype), torch.randn(7, 24).to(dtype)
    assert can_prepack(dtype)
    used, summed = Linear(weight, bias, gelu=True), Linear(weight, bias)
    monkeypatch.setattr(weights, "can_prepack", lambda _: False)
    plain, plain_summed = Linear(weight, bias, gelu=True), Linear(weight, bias)
    torch.testing.assert_close(used(x).float(), plain(x).float(), atol=0.05, rtol=0.05)
    torch.testing.assert_close(
        summed.add(x, residual).float(), plain_summed.add(x, residual).float(), atol=0.05, rtol=0.05
    )


def test_a_dtype_that_cannot_be_prepacked_is_computed_plainly():
    assert not can_prepack(torch.float16)
