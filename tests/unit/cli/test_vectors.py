import json

import numpy as np
import pytest

from hybrid_infer.cli import vectors


@pytest.fixture
def windows():
    numbers = np.random.default_rng(7).standard_normal((5, 8)).astype(np.float32)
    return [numbers[:3], numbers[3:]]


def test_what_is_held_reads_back_as_the_same_float32(windows):
    held = vectors.Held()
    for window in windows:
        held.write(window)
    assert np.array_equal(np.asarray(held.rows(), np.float32), np.concatenate(windows))


def test_standard_output_has_an_array_a_line(windows, capsys):
    for window in windows:
        vectors.StandardOutput().write(window)
    lines = capsys.readouterr().out.splitlines()
    back = np.asarray([json.loads(line) for line in lines], np.float32)
    assert np.array_equal(back, np.concatenate(windows))
