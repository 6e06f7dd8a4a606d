"""Safetensors headers: damage is noticed without reading a tensor."""

import json
import struct

import numpy as np
import pytest

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.tensors import safetensors_header
from hybrid_infer.snapshots.tiny import safetensors_bytes

WHOLE = safetensors_bytes({"b": np.ones((2, 2), np.float32), "a": np.arange(3, dtype=np.float32)})


def test_our_writer_and_the_formats_own_reader_agree(tmp_path):
    from safetensors.numpy import load_file

    (tmp_path / "x.safetensors").write_bytes(WHOLE)
    read = load_file(tmp_path / "x.safetensors")
    assert read["a"].tolist() == [0, 1, 2]
    assert read["b"].tolist() == [[1, 1], [1, 1]]


def test_truncation_is_noticed_at_every_length(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(WHOLE)
    assert safetensors_header(file)["b"]["shape"] == [2, 2]
    for content in (*(WHOLE[:length] for length in range(len(WHOLE))), WHOLE + b"\0"):
        file.write_bytes(content)
        with pytest.raises(ModelIntegrityError):
            safetensors_header(file)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {}},
        {"a": {"dtype": "F32", "data_offsets": ["0", 4]}},
        {"a": {"dtype": "F32", "data_offsets": [0]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 4, 8]}},
        {"a": {"dtype": "F32", "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "data_offsets": [-4, 4]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 4.0]}},
        {"a": {"dtype": "F32", "data_offsets": [False, True]}},
        {"a": {"dtype": 7, "data_offsets": [0, 4]}},
    ],
)
def test_headers_of_any_shape_end_in_our_error(tmp_path, header):
    text = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"0000")
    with pytest.raises(ModelIntegrityError, match="damaged header"):
        safetensors_header(file)
