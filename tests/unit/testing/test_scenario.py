import dataclasses

import pytest

from hybrid_infer.errors import ConfigError
from hybrid_infer.testing import Event, Match, Reply, Step
from hybrid_infer.testing.messages import Headers, ReceivedRequest


def request(method="POST", path="/v1/chat/completions", body=b'{"model":"org/m","stream":true}'):
    return ReceivedRequest(method, path, "", Headers(), body, 0.0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": 99}, "status"),
        ({"status": 600}, "status"),
        ({"cut_after_bytes": -1}, "cut_after_bytes"),
        ({"drip_seconds": float("nan")}, "drip_seconds"),
        ({"drip_seconds": float("inf")}, "drip_seconds"),
        ({"json": None, "body": "x"}, "body and json"),
        ({"events": [], "raw": b""}, "events and raw"),
        ({"raw": b"x", "status": 500}, "raw"),
        ({"clean_end": True}, "cut_after_events"),
        ({"clean_end": True, "cut_after_events": 1, "reset": True}, "exclude"),
        ({"reset": True}, "reset needs"),
        ({"headers": {"a b": "x"}}, "name"),
        ({"headers": {"a": "x\r\ny: z"}}, "one line"),
        ({"headers": {"a": "→"}}, "Latin-1"),
        ({"headers": {"a": 5}}, "headers"),
        ({"headers": ["a"]}, "headers"),
        ({"events": [5]}, "event"),
    ],
)
def test_replies_that_contradict_themselves(options, message):
    with pytest.raises(ConfigError, match=message):
        Reply(**options)


@pytest.mark.parametrize(
    "options",
    [{}, {"content": "a", "json": 1}, {"data": "a", "raw": b"b"}, {"event": "named"}],
)
def test_events_say_one_thing(options):
    with pytest.raises(ConfigError, match="exactly one"):
        Event(**options)


def test_replies_are_frozen_and_can_be_changed_by_replace():
    reply = Reply(retry_after=5, headers=iter([("a", "b")]))
    again = dataclasses.replace(reply, cut_after_bytes=3)
    assert again.header_pairs == reply.header_pairs == [("a", "b"), ("retry-after", "5")]
    assert again.status == 429
    with pytest.raises(dataclasses.FrozenInstanceError):
        reply.status = 200


def test_times_must_be_positive():
    with pytest.raises(ConfigError, match="times"):
        Step(Reply(), times=0)


@pytest.mark.parametrize(
    ("match", "admits"),
    [
        (Match(), True),
        (Match(method="post"), True),
        (Match(method="GET"), False),
        (Match(path="*/completions"), True),
        (Match(path="/v1"), False),
        (Match(model="org/*"), True),
        (Match(model="other/*"), False),
        (Match(task="chat"), True),
        (Match(task="embeddings"), False),
        (Match(stream=True), True),
        (Match(stream=False), False),
        (Match(task="chat", stream=False), False),
    ],
)
def test_match(match, admits):
    assert match.admits(request()) is admits


@pytest.mark.parametrize(
    ("path", "task", "model"),
    [
        ("/v1/chat/completions", "chat", "org/m"),
        ("/hf-inference/models/a/b/v1/chat/completions", "chat", "a/b"),
        ("/hf-inference/models/a/b/pipeline/feature-extraction", "embeddings", "a/b"),
        ("/v1/embeddings", "embeddings", "org/m"),
        ("/embed", "embeddings", "org/m"),
        ("/api/models/a/b", None, "a/b"),
        ("/health", None, "org/m"),
    ],
)
def test_what_a_path_is_for(path, task, model):
    received = request(path=path)
    assert (received.task, received.model) == (task, model)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"model": 5}', b"[" * 100_000])
def test_any_body_can_be_looked_at(body):
    received = request(body=body)
    assert received.model is None
    assert received.stream is False


def test_headers_mask_every_kind_of_key():
    headers = Headers([("X-Api-Key", "k1"), ("Cookie", "k2"), ("A", "1"), ("a", "2")])
    assert headers["a"] == "1, 2"
    assert ("A" in headers, 5 in headers, len(headers)) == (True, False, 3)
    assert "k1" not in repr(headers)
    assert "k2" not in repr(headers)
    assert dict(headers)["x-api-key"] == "k1"
