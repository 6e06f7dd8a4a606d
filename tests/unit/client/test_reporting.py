"""What observers are told, of real calls over real TCP."""

import pytest

from hybrid_infer import (
    HybridClient,
    ModelNotDownloadedError,
    Reason,
    RemoteServerError,
    StreamInterruptedError,
)
from hybrid_infer.events import (
    AttemptFinished,
    BatchComputed,
    CallFailed,
    CallFinished,
    Retried,
    StreamEnded,
    TargetClosed,
    TargetReopened,
)
from hybrid_infer.testing import FakeRemote, Reply

SECRET = "a very private text"


@pytest.fixture(scope="module")
def shared_fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


@pytest.fixture
def fake(shared_fake):
    shared_fake.reset()
    yield shared_fake
    shared_fake.reset()


class Seen(list):
    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]

    def only(self, kind):
        (event,) = self.of(kind)
        return event


@pytest.fixture
def seen():
    events = Seen()
    yield events
    assert SECRET not in repr(events)


def make(fake, seen, **options):
    return HybridClient(
        profile="tiny", base_url=fake.url, dtype="float32", on_event=seen.append, **options
    )


def test_a_call_tells_what_it_asked_for_and_got(fake, seen):
    with make(fake, seen) as client:
        client.chat_completion(SECRET, model="small", max_tokens=4, top_k=3, seed=9)
        client.embed([SECRET, "b"], model="small", route="local")
    chat, embed = seen.of(CallFinished)
    assert (chat.asked.operation, chat.model) == ("chat", "chat/small")
    assert dict(chat.asked.options) == {"max_tokens": 4, "temperature": 0.0, "top_k": 3, "seed": 9}
    assert (chat.answered.output_tokens, chat.answered.finish_reasons) == (4, ("length",))
    assert chat.answered.input_tokens > 4
    assert (embed.asked.operation, embed.asked.num_texts) == ("embeddings", 2)
    assert embed.answered.dim == 384
    assert embed.answered.input_tokens > 4


def test_batches_of_the_engine_are_told(fake, seen):
    client = make(fake, seen)
    client.embed([SECRET, "b"], model="small", route="local")
    client.close()  # its threads have ended
    batches = seen.of(BatchComputed)
    assert sum(batch.rows for batch in batches) == 2
    assert all(batch.tokens >= batch.rows and batch.forward_seconds > 0 for batch in batches)


def test_a_retry_is_told_with_its_cause(fake, seen):
    fake.enqueue(Reply(status=500))
    with make(fake, seen, policy="remote-only") as client:
        client.embed(SECRET, model="small")
    assert seen.only(Retried).reason is Reason.SERVER_ERROR
    first, second = (event.attempt for event in seen.of(AttemptFinished))
    assert (first.reason, second.reason) == (Reason.SERVER_ERROR, None)
    began = second.started_after_seconds
    assert 0 <= first.started_after_seconds <= first.latency_seconds + began
    assert began >= first.latency_seconds


def test_a_remote_closes_once_and_reopens_once(fake, seen):
    fake.go_down()
    with make(fake, seen) as client:
        client.warm("embeddings/small")
        client.embed(SECRET, model="small")
        client.embed(SECRET, model="small")
        # Each connection that fails closes it for longer; calls that send nothing tell nothing.
        failed = [e for e in seen.of(AttemptFinished) if e.attempt.error is not None]
        closed = seen.of(TargetClosed)
        assert len(closed) == len(failed)
        assert (closed[0].target, closed[0].reason) == ("huggingface", Reason.CONNECTION_FAILED)
        assert 0 < closed[0].seconds <= 1.2
        fake.come_back()
        client.reset()
        client.embed(SECRET, model="small")
        client.embed(SECRET, model="small")
    assert seen.only(TargetReopened).model == "embeddings/small"


def test_a_failed_call_is_told(fake, seen):
    fake.enqueue(Reply(status=500), times=3)
    with make(fake, seen, policy="remote-only") as client, pytest.raises(RemoteServerError):
        client.embed(SECRET, model="small")
    failed = seen.only(CallFailed)
    assert (failed.error, len(failed.attempts)) == ("RemoteServerError", 3)
    assert failed.latency_seconds >= failed.attempts[-1].started_after_seconds
    assert not seen.of(CallFinished)


def test_a_call_that_nobody_may_serve_is_told(seen, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    client = HybridClient(policy="local-only", on_event=seen.append)
    with client, pytest.raises(ModelNotDownloadedError):
        client.embed(SECRET, model="small")
    failed = seen.only(CallFailed)
    assert (failed.error, failed.attempts) == ("ModelNotDownloadedError", ())


def test_the_end_of_a_stream_is_told_once(fake, seen):
    with make(fake, seen) as client:
        with client.chat_completion(
            SECRET, model="small", max_tokens=4, stream=True, stream_options={"include_usage": True}
        ) as stream:
            assert not seen.of(StreamEnded)
            list(stream)
        stream.close()
    ended = seen.only(StreamEnded)
    assert (ended.error, ended.is_whole) == (None, True)
    assert (ended.answered.output_tokens, ended.answered.finish_reasons) == (4, ("length",))
    assert ended.duration_seconds >= seen.only(CallFinished).route.latency_seconds


def test_a_stream_that_is_left_is_not_whole(fake, seen):
    with make(fake, seen) as client:
        stream = client.chat_completion(SECRET, model="small", max_tokens=8, stream=True)
        next(stream)
        stream.close()
    ended = seen.only(StreamEnded)
    assert (ended.error, ended.is_whole) == (None, False)


def test_a_stream_that_breaks_says_so(fake, seen):
    fake.enqueue(Reply(cut_after_events=3))
    with make(fake, seen) as client, pytest.raises(StreamInterruptedError):
        list(
            client.chat_completion(
                SECRET, model="small", max_tokens=8, stream=True, on_stream_error="raise"
            )
        )
    assert seen.only(StreamEnded).error == "StreamInterruptedError"


def test_a_stream_that_goes_on_elsewhere_is_one_stream(fake, seen):
    fake.enqueue(Reply(cut_after_events=3))
    with make(fake, seen) as client:
        client.warm("chat/small")
        list(client.chat_completion(SECRET, model="small", max_tokens=8, stream=True))
    ended = seen.only(StreamEnded)
    assert (ended.route.backend, ended.error, ended.is_whole) == ("local", None, True)
    broken, local = ended.route.attempts
    assert broken.latency_seconds > 0
    assert local.started_after_seconds >= broken.started_after_seconds + broken.latency_seconds
