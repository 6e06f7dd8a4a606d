import json

import numpy as np
import pytest

from hybrid_infer.cli import output, vectors


@pytest.fixture
def windows():
    numbers = np.random.default_rng(7).standard_normal((5, 8)).astype(np.float32)
    return [numbers[:3], numbers[3:]]


def test_shortest_floats_read_back_as_the_same_float32(windows):
    back = np.asarray(vectors.rows(windows[0]), np.float32)
    assert np.array_equal(back, windows[0])


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl"])
def test_a_file_appears_complete_and_alone(tmp_path, windows, name):
    path = tmp_path / name
    with vectors.committed(vectors.VectorFile(path)) as sink:
        for window in windows:
            sink.write(window)
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if name.endswith(".npy"):
        back = np.load(path)
    else:
        lines = path.read_text().splitlines()
        back = np.asarray([json.loads(line) for line in lines], np.float32)
    assert back.dtype == np.float32
    assert np.array_equal(back, np.concatenate(windows))


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, windows):
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def fail_half_way():
        with vectors.committed(vectors.VectorFile(path)) as sink:
            sink.write(windows[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_folder_that_is_not_there_is_a_usage_fault_before_any_work(tmp_path):
    with pytest.raises(output.UsageFault, match="No such file"):
        vectors.VectorFile(tmp_path / "nowhere" / "out.npy")
