"""The one-job-at-a-time worker of the chat engine."""

import threading

import pytest

from hybrid_infer.errors import OverloadedError
from hybrid_infer.local.worker import Worker


def test_a_full_queue_refuses_at_the_door():
    entered, gate = threading.Event(), threading.Event()

    class Blocker:
        def run(self):
            entered.set()
            gate.wait(10)

        def fail(self, error):
            pass

        def abandon(self):
            gate.set()

    worker = Worker("test-worker", max_jobs=2)
    worker.submit(Blocker())
    assert entered.wait(10)
    worker.submit(Blocker())
    worker.submit(Blocker())
    with pytest.raises(OverloadedError) as caught:
        worker.submit(Blocker())
    assert caught.value.retry_after > 0
    gate.set()
    worker.close()
