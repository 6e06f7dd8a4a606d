"""Memory for replies: large ones go back to the system with their last reference."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid_infer.local.embedding.vectors import MAPPED_BYTES, new_vectors


@pytest.mark.parametrize("count", [0, 1, 3, MAPPED_BYTES // 4 // 128 - 1, MAPPED_BYTES // 4 // 128])
def test_any_size_can_be_filled_and_kept(count):
    vectors = new_vectors(count, 128)
    assert (vectors.shape, vectors.dtype) == ((count, 128), np.float32)
    assert vectors.flags.c_contiguous
    assert vectors.flags.writeable
    vectors[:] = np.arange(count, dtype=np.float32)[:, None]
    assert np.array_equal(vectors.copy(), vectors)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_large_ones_leave_nothing_behind():
    def resident_mb():
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    vectors = new_vectors(65_536, 256)  # 64 MB
    vectors[:] = 1
    row = vectors[7]
    full = resident_mb()
    del vectors
    assert row.sum() == 256
    del row
    assert resident_mb() < full - 60
