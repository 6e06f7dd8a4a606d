import re

import pytest

from hybrid_infer import Reason, ServerSettings
from hybrid_infer.datatypes.route import Attempt, Route
from hybrid_infer.events import Answered, Asked, AttemptFinished, CallFailed, CallFinished, FellBack
from hybrid_infer.server.admission import Admission
from hybrid_infer.server.metrics import exposition
from hybrid_infer.server.statistics import KEPT_FALLBACKS, Statistics

SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="(\\.|[^"\\])*",?)+\})? [0-9.e+-]+')


@pytest.fixture
def seen(clock):
    made = Statistics(clock, lambda: 1_700_000_000.0)
    made.know(["chat/small"])
    return made


def finished(model="chat/small", backend="local", reason=Reason.PRIMARY, seconds=0.003):
    route = Route(backend, None, "org/repo", None, True, reason, "", (), seconds)
    return CallFinished(model, route, Asked("chat", model), Answered())


def test_the_last_minute(seen, clock):
    seen(finished(seconds=9.0))
    clock.advance(61)
    for seconds in (0.1, 0.2, 0.3):
        seen(finished(backend="remote", seconds=seconds))
    seen(finished(reason=Reason.RATE_LIMITED, seconds=0.4))
    recent = seen.recent()
    assert recent["calls_per_second"] == pytest.approx(4 / 60)
    assert (recent["remote_calls"], recent["local_calls"], recent["fallback_calls"]) == (3, 1, 1)
    assert recent["latency_p50_seconds"] == 0.3


def test_the_last_fallbacks_are_kept_newest_first(seen):
    for number in range(KEPT_FALLBACKS + 5):
        seen(FellBack(f"chat/{number}", "huggingface", "local", Reason.TIMEOUT, "chat"))
    kept = seen.recent()["fallbacks"]
    assert len(kept) == KEPT_FALLBACKS
    assert kept[0] == {
        "at": 1_700_000_000.0, "model": f"chat/{KEPT_FALLBACKS + 4}",
        "from": "huggingface", "to": "local", "reason": "timeout",
    }  # fmt: skip


def test_the_exposition(seen):
    seen(finished())
    seen(finished(seconds=1e6))
    seen(CallFailed("chat/small", "RateLimitError", (), Asked("chat", "chat/small"), 0.1))
    seen(FellBack("chat/small", 'hugging"face\\\n', "local", Reason.RATE_LIMITED, "chat"))
    seen(AttemptFinished("chat/small", Attempt("local", None, None, 0.1), "chat"))
    text = exposition(seen, Admission(ServerSettings()))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(sample) for sample in samples), text
    label = 'operation="chat",model="chat/small",backend="local"'
    assert f'hybrid_infer_requests_total{{{label},outcome="ok"}} 2' in samples
    assert f'hybrid_infer_request_duration_seconds_bucket{{{label},le="0.002"}} 0' in samples
    assert f'hybrid_infer_request_duration_seconds_bucket{{{label},le="0.004"}} 1' in samples
    assert f'hybrid_infer_request_duration_seconds_bucket{{{label},le="+Inf"}} 2' in samples
    assert f"hybrid_infer_request_duration_seconds_count{{{label}}} 2" in samples


def test_a_client_cannot_make_labels_up(seen):
    for number in range(100):
        seen(finished(model=f"someone/model-{number}"))
    assert set(seen.requests) == {("other", "local", "ok")}
