import numpy as np
import pytest

from hybrid_infer.cli.demo import tables
from hybrid_infer.cli.demo.records import Call, Phase, summarise

PHASES = [Phase("healthy", 0.0, 1.0, 2), Phase("gone", 1.0, 2.0, 0)]


@pytest.fixture
def vectors():
    return np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)


def remote(vectors, batch=0):
    return Call(0, "embed", 0.1, 0.02, "remote", "primary", batch=batch, vectors=vectors)


def local(vectors, batch=0, dtype="bfloat16"):
    return Call(
        1, "embed", 1.1, 0.04, "local", "connection_failed", dtype, batch=batch, vectors=vectors
    )


def test_a_good_run_passes_and_counts_per_phase(vectors):
    chat = Call(1, "chat", 1.2, 0.5, "local", "connection_failed")
    report = summarise([remote(vectors), local(vectors), chat], PHASES, chat="tiny")
    assert report.passed
    assert report.rows[0].cosine_min is None
    assert report.rows[1].cosine_min == pytest.approx(1.0)
    assert (report.rows[1].calls, report.rows[1].served_local) == (2, 2)
    assert report.rows[1].p50_milliseconds == pytest.approx(40)  # chat is left out
    assert report.rows[0].requests_at_remote == 2
    assert tables.verdict(report).startswith("0 calls lost of 3; cosine ")


def test_a_lost_call_fails_the_run(vectors):
    lost = Call(1, "embed", 1.3, 0.1, None, error="RateLimitError: slow down")
    report = summarise([remote(vectors), local(vectors), lost], PHASES, chat="tiny")
    assert not report.passed
    assert report.lost == report.rows[1].lost == 1
    assert report.errors == ("RateLimitError: slow down",)


@pytest.mark.parametrize(("dtype", "passes"), [("float32", False), ("bfloat16", True)])
def test_each_dtype_has_its_own_bound(vectors, dtype, passes):
    other = np.eye(2, 8, 1, dtype=np.float32)
    off = vectors + 0.03 * np.linalg.norm(vectors, axis=1, keepdims=True) * other
    report = summarise(
        [remote(vectors), local(off.astype(np.float32), dtype=dtype)], PHASES, chat="tiny"
    )
    assert 0.999 < report.cosine_min < 0.99999
    assert report.passed is passes


def test_the_worst_text_counts_and_not_the_mean(vectors):
    off = vectors.copy()
    off[1] = -off[1]
    report = summarise([remote(vectors), local(off)], PHASES, chat="tiny")
    assert report.cosine_min == pytest.approx(-1.0)
    assert not report.passed


def test_a_run_that_compared_nothing_does_not_pass(vectors):
    report = summarise([remote(vectors, batch=1), local(vectors, batch=2)], PHASES, chat="tiny")
    assert report.cosine_min is None
    assert not report.passed
    assert "nothing could be compared" in tables.verdict(report)


def test_a_cosine_is_never_rounded_up():
    assert tables.floored(0.9999999) == "0.999999"
