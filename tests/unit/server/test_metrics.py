"""What the server counts, and when."""

import pytest

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.events import BatchComputed, TargetClosed, TargetReopened
from hybrid_infer.server.metrics import MOST_UNCOUNTED, Metrics

CLOSED = TargetClosed("embeddings/small", "huggingface", Reason.RATE_LIMITED, 1.0, "embeddings")
REOPENED = TargetReopened("embeddings/small", "huggingface", "embeddings")


@pytest.mark.parametrize("number", [1, MOST_UNCOUNTED - 1, MOST_UNCOUNTED, 3 * MOST_UNCOUNTED + 1])
def test_whoever_looks_sees_everything(number):
    metrics = Metrics()
    for _ in range(number - 1):
        metrics(CLOSED)
    metrics(REOPENED)
    text = metrics.exposition("")[0].decode()
    assert 'breaker_state{backend="huggingface",model="embeddings/small"} 0.0' in text
    metrics(CLOSED)
    text = metrics.exposition("")[0].decode()
    assert 'breaker_state{backend="huggingface",model="embeddings/small"} 1.0' in text


def test_what_nobody_looks_at_does_not_pile_up():
    metrics = Metrics()
    for _ in range(10 * MOST_UNCOUNTED):
        metrics(CLOSED)
    assert len(metrics._uncounted) < MOST_UNCOUNTED


def test_what_cannot_be_counted_is_logged_and_no_scrape_fails(caplog):
    metrics = Metrics()
    metrics(BatchComputed("model", 1, 0, 0.1, 0, 0, (0.0,), 0.0))  # of no tokens, there is no share
    metrics(CLOSED)
    assert "breaker_state" in metrics.exposition("")[0].decode()
    assert "BatchComputed" in caplog.text
