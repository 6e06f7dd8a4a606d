import pytest

from hybrid_infer import Reason
from hybrid_infer.datatypes.route import Route
from hybrid_infer.events import Answered, Asked, CallFinished, FellBack
from hybrid_infer.server.statistics import KEPT_FALLBACKS, Statistics


@pytest.fixture
def seen(clock):
    return Statistics(clock, lambda: 1_700_000_000.0)


def finished(model="chat/small", backend="local", reason=Reason.PRIMARY, seconds=0.003):
    route = Route(backend, None, "org/repo", None, True, reason, "", (), seconds)
    return CallFinished(model, route, Asked("chat", model), Answered())


def test_the_last_minute(seen, clock):
    seen(finished(seconds=9.0))
    clock.advance(61)
    for seconds in (0.1, 0.2, 0.3):
        seen(finished(backend="remote", seconds=seconds))
    seen(finished(reason=Reason.RATE_LIMITED, seconds=0.4))
    seen(finished(backend="cache", reason=Reason.CACHE_HIT, seconds=0.2))
    recent = seen.recent()
    assert recent["calls_per_second"] == pytest.approx(5 / 60)
    assert (recent["remote_calls"], recent["local_calls"], recent["fallback_calls"]) == (3, 1, 1)
    assert recent["latency_p50_seconds"] == 0.2


def test_the_last_fallbacks_are_kept_newest_first(seen):
    for number in range(KEPT_FALLBACKS + 5):
        seen(FellBack(f"chat/{number}", "huggingface", "local", Reason.TIMEOUT, "chat"))
    kept = seen.recent()["fallbacks"]
    assert len(kept) == KEPT_FALLBACKS
    assert kept[0] == {
        "at": 1_700_000_000.0, "model": f"chat/{KEPT_FALLBACKS + 4}",
        "from": "huggingface", "to": "local", "reason": "timeout",
    }  # fmt: skip
