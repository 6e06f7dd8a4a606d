"""Recorded steps on a GPU: what they compute, and that they are recorded at all."""

import pytest
import torch

from hybrid_infer.local.generation.decoders import Piece, load_decoder
from hybrid_infer.local.generation.decoders.recorded import RecordedLlama
from hybrid_infer.local.placement import Placement
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

pytestmark = pytest.mark.gpu

PROMPTS = [
    [1 + (7 * number + place) % 40 for place in range(1 + 11 * number)] for number in range(7)
]
LONG = 900


@pytest.fixture(params=["default", "small"])
def decoders(request):
    path = find_snapshot(load_registry(profile="tiny").resolve("chat", request.param))
    made = [load_decoder(path, Placement(device, "float32")) for device in ("cuda:0", "cpu")]
    assert isinstance(made[0], RecordedLlama)
    return made


def begin(decoder, row, ids, places):
    decoder.cache.begin(row, places)
    decoder.prefill([Piece(row, 0, ids)])


def assert_same(decoders, token, lengths, rows):
    with torch.inference_mode():
        got, expected = (
            decoder.decode([token] * len(rows), lengths, rows).cpu() for decoder in decoders
        )
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-3)


def test_steps_are_recorded_and_are_those_of_the_cpu(decoders):
    with torch.inference_mode():
        for decoder in decoders:
            for row, ids in enumerate(PROMPTS):  # of two extents
                begin(decoder, row, ids, LONG if row % 2 else len(ids) + 40)
    rows = list(range(len(PROMPTS)))
    lengths = [len(ids) for ids in PROMPTS]
    for number in range(12):
        order = rows if number % 2 else rows[::-1]
        assert_same(decoders, 3 + number, [lengths[row] + number for row in order], order)
    assert decoders[0]._recorder.num_recordings
    # Some leave, one comes, a step fails for all and is repeated for a part.
    with torch.inference_mode():
        for decoder in decoders:
            for row in (1, 2):
                decoder.cache.end(row)
            begin(decoder, 1, [5, 6, 7], 200)
    lengths = {row: len(PROMPTS[row]) + 12 for row in rows} | {1: 3}
    left = [row for row in rows if row != 2]
    for number in range(6):
        assert_same(decoders, 9, [lengths[row] + number for row in left], left)
        assert_same(decoders, 8, [lengths[row] + number + 1 for row in left[:2]], left[:2])
    with torch.inference_mode():
        for decoder in decoders:
            for row in left:
                decoder.cache.end(row)


def test_prompts_that_are_read_together_are_those_of_the_cpu(decoders):
    pieces = [Piece(row, 0, ids) for row, ids in enumerate(PROMPTS)]
    rest = [Piece(row, len(ids), [9, 8, 7]) for row, ids in enumerate(PROMPTS)]
    with torch.inference_mode():
        for decoder in decoders:
            for row, ids in enumerate(PROMPTS):
                decoder.cache.begin(row, LONG if row % 2 else len(ids) + 40)
        for given in (pieces, rest):
            got, expected = (decoder.prefill(given).cpu() for decoder in decoders)
            torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-3)


def test_half_precision_reads_prompts_with_the_gpus_own_kernel():
    path = find_snapshot(load_registry(profile="tiny").resolve("chat", "default"))
    exact, quick = (
        load_decoder(path, Placement(*where))
        for where in (("cpu", "float32"), ("cuda:0", "bfloat16"))
    )
    pieces = [Piece(row, 0, ids) for row, ids in enumerate(PROMPTS)]
    with torch.inference_mode():
        for decoder in (exact, quick):
            for row, ids in enumerate(PROMPTS):
                decoder.cache.begin(row, len(ids) + 40)
        expected, got = (decoder.prefill(pieces).cpu() for decoder in (exact, quick))
    assert torch.nn.functional.cosine_similarity(got, expected).min() > 0.99


def test_a_recording_that_fails_leaves_plain_steps(decoders, monkeypatch, caplog):
    class Graph:
        def capture_begin(self, *_, **__):
            raise RuntimeError("no graphs here")

        def capture_end(self):
            raise RuntimeError("there is nothing to end")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    with torch.inference_mode():
        for decoder in decoders:
            begin(decoder, 0, [4, 5, 6], 40)
    for number in range(5):
        assert_same(decoders, 7, [3 + number], [0])
    assert not decoders[0]._recorder.num_recordings
    assert caplog.text.count("no graphs here") == 1
