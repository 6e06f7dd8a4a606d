import threading
from concurrent.futures import CancelledError

import pytest

from hybrid_infer.testing.workers import Workers

LONG = 20.0


@pytest.fixture
def workers():
    made = Workers(2, "test-workers")
    yield made
    assert made.close(LONG)


def test_jobs_run_side_by_side_up_to_the_count(workers):
    meet = threading.Barrier(2)
    jobs = [workers.submit(meet.wait, LONG) for _ in range(2)]
    assert sorted(job.result(LONG) for job in jobs) == [0, 1]


def test_an_idle_thread_is_used_again(workers):
    names = {workers.submit(threading.get_ident).result(LONG)}
    both = threading.Barrier(2)
    idents = [workers.submit(lambda: both.wait(LONG) * 0 + threading.get_ident()) for _ in range(2)]
    assert names <= {one.result(LONG) for one in idents}


@pytest.mark.parametrize(
    ("error", "seen"),
    [(ValueError("x"), ValueError), (SystemExit(), RuntimeError), (StopIteration(), RuntimeError)],
)
def test_no_job_can_end_a_thread(workers, error, seen):
    def fail():
        raise error

    with pytest.raises(seen):
        workers.submit(fail).result(LONG)
    assert workers.submit(lambda: 5).result(LONG) == 5


def test_closing_drops_what_has_not_begun():
    workers = Workers(1, "test-workers")
    entered, go = threading.Event(), threading.Event()

    def hold():
        entered.set()
        return go.wait(LONG)

    running, waiting = workers.submit(hold), workers.submit(int)
    assert entered.wait(LONG)
    assert not workers.close(0.0)
    assert waiting.cancelled()
    go.set()
    assert running.result(LONG)
    assert workers.close(LONG)
    with pytest.raises(CancelledError):
        workers.submit(int).result(LONG)
