import json

import pytest

from hybrid_infer.testing import Event, Match, Reply

SMALL = Reply(status=418, json={"a": 1})
SMALL_BYTES = (
    b"HTTP/1.1 418 I'm a Teapot\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n"
    b'{"a":1}'
)


def test_a_scripted_answer_to_the_byte(fake, connect):
    fake.enqueue(SMALL)
    raw = connect()
    raw.get()
    assert raw.read(len(SMALL_BYTES)) == SMALL_BYTES


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            Reply(body=b"\x00\xff", headers={"X-A": ["1", "2"]}),
            (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 2\r\n"
                b"X-A: 1\r\nX-A: 2\r\n\r\n\x00\xff"
            ),
        ),
        (
            Reply(body="<html>", headers={"Content-Length": "99"}),
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\nContent-Length: 99\r\n\r\n<html>",
        ),
        (
            Reply(json=None),
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull",
        ),
        (
            Reply(json=[float("nan")]),
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n[NaN]",
        ),
        (Reply(status=204), b"HTTP/1.1 204 No Content\r\n\r\n"),
        (
            Reply(status=307, headers={"location": "http://127.0.0.1:1/"}),
            b"HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\nlocation: http://127.0.0.1:1/\r\n\r\n",
        ),
        (Reply(raw=b"BANANA\r\n"), b"BANANA\r\n"),
        (
            Reply(body="x", status=599, close=True),
            b"HTTP/1.1 599 Unknown\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 1\r\n\r\nx",
        ),
    ],
)
def test_bodies_and_headers_to_the_byte(fake, connect, reply, expected):
    fake.enqueue(reply)
    raw = connect()
    raw.get()
    assert raw.read(len(expected)) == expected


def test_cut_at_every_byte(fake, connect):
    for count in range(len(SMALL_BYTES) + 1):
        fake.enqueue(Reply(status=418, json={"a": 1}, cut_after_bytes=count))
        raw = connect()
        raw.get()
        assert raw.read_all() == SMALL_BYTES[:count]
    finished = fake.wait_for(len(SMALL_BYTES) + 1, finished=True)
    assert [one.bytes_sent for one in finished] == list(range(len(SMALL_BYTES) + 1))


def test_a_cut_beyond_the_end_cuts_nothing(fake, connect):
    fake.enqueue(Reply(status=418, json={"a": 1}, cut_after_bytes=len(SMALL_BYTES) + 1), times=2)
    raw = connect()
    for _ in range(2):
        raw.get()
        assert raw.read(len(SMALL_BYTES)) == SMALL_BYTES


def test_a_cut_by_reset_is_a_reset(fake, connect):
    fake.enqueue(Reply(json={"a": 1}, cut_after_bytes=10, reset=True))
    raw = connect()
    raw.get()
    with pytest.raises(ConnectionResetError):
        raw.read_all()


@pytest.mark.parametrize("reset", [False, True])
def test_disconnect_sends_no_byte(fake, connect, reset):
    fake.enqueue(Reply(disconnect=True, reset=reset))
    raw = connect()
    raw.get()
    if reset:
        with pytest.raises(ConnectionResetError):
            raw.read_all()
    else:
        assert raw.read_all() == b""
    (request,) = fake.wait_for(1, finished=True)
    assert (request.answered, request.bytes_sent) == (None, 0)


def test_a_stale_keep_alive_connection(fake, connect):
    fake.enqueue(Reply(json=1, close=True))
    raw = connect()
    raw.get()
    answer = raw.read_all()
    assert answer.endswith(b"\r\n\r\n1")
    assert b"connection" not in answer


@pytest.mark.parametrize("count", [0, 20, len(SMALL_BYTES)])
def test_a_stall_sends_so_much_and_goes_on_when_released(fake, connect, count):
    fake.enqueue(Reply(status=418, json={"a": 1}, stall_after_bytes=count))
    raw = connect()
    raw.get()
    assert raw.read(count) == SMALL_BYTES[:count]
    (request,) = fake.wait_for(1)
    assert not request.finished
    fake.release()
    assert raw.read(len(SMALL_BYTES) - count) == SMALL_BYTES[count:]
    fake.wait_for(1, finished=True)
    fake.enqueue(SMALL)
    raw.get()
    assert raw.read(len(SMALL_BYTES)) == SMALL_BYTES


def test_a_stall_ends_when_the_client_goes(fake, connect):
    fake.enqueue(Reply(stall_after_bytes=5))
    raw = connect()
    raw.get()
    assert raw.read(5) == b"HTTP/"
    raw.close()
    (request,) = fake.wait_for(1, finished=True)
    assert request.bytes_sent == 5


def test_a_stall_ends_with_a_reset_of_the_fake(fake, connect):
    fake.enqueue(Reply(stall_after_bytes=5))
    raw = connect()
    raw.get()
    fake.wait_for(1)
    fake.reset()
    assert raw.read_all() in (b"", b"HTTP/")


def test_a_drip_comes_whole_and_in_order(fake, connect, monkeypatch):
    pauses = []
    real = __import__("asyncio").sleep

    async def spy(seconds, *rest):
        pauses.append(seconds)
        await real(0, *rest)

    monkeypatch.setattr("hybrid_infer.testing.delivery.asyncio.sleep", spy)
    fake.enqueue(Reply(status=418, json={"a": 1}, drip_bytes=7, drip_seconds=60.0))
    raw = connect()
    raw.get()
    assert raw.read(len(SMALL_BYTES)) == SMALL_BYTES
    fake.wait_for(1, finished=True)
    assert pauses == [60.0] * ((len(SMALL_BYTES) - 1) // 7)


def stream_of(raw):
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"content-type: text/event-stream" in head
    return rest


def test_events_to_the_byte(fake, connect):
    events = [
        "plain",
        {"a": 1},
        b": comment\r\n\r\n",
        Event(error="busy", event="error"),
        Event(data="two\nlines"),
        "[DONE]",
    ]
    fake.enqueue(Reply(events=events, close=True))
    raw = connect()
    raw.get()
    expected = b""
    for text in (
        b"data: plain\n\n",
        b'data: {"a":1}\n\n',
        b": comment\r\n\r\n",
        b'event: error\ndata: {"error":"busy"}\n\n',
        b"data: two\ndata: lines\n\n",
        b"data: [DONE]\n\n",
    ):
        expected += b"%x\r\n%s\r\n" % (len(text), text)
    assert stream_of(raw.read_all()) == expected + b"0\r\n\r\n"


@pytest.mark.parametrize("count", [0, 1, 3, 4])
@pytest.mark.parametrize("clean_end", [False, True])
def test_a_stream_is_cut_after_events(fake, client, connect, count, clean_end):
    reply = Reply(events=["1", "2", "3"], cut_after_events=count, clean_end=clean_end)
    fake.enqueue(reply)
    raw = connect()
    raw.send(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    received = stream_of(raw.read_all())
    assert received.count(b"data: ") == min(count, 3)
    is_whole = clean_end or count > 3
    assert received.endswith(b"0\r\n\r\n") is is_whole


def test_a_healthy_stream_is_cut_after_events(fake, client):
    fake.enqueue(Reply(cut_after_events=2, clean_end=True))
    response = client.chat("one two three", stream=True)
    chunks = [json.loads(line[6:]) for line in response.data.decode().splitlines() if line]
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["one", " two"]
    assert client.chat("again").status == 200
    assert len({one.connection_id for one in fake.ledger}) == 1


def test_a_cut_counted_in_events_leaves_other_answers_alone(fake, client):
    fake.enqueue(Reply(cut_after_events=0))
    assert client.chat("whole").status == 200


def test_a_stream_stalls_after_events(fake, connect):
    fake.enqueue(Reply(events=["1", "2"], stall_after_events=1))
    raw = connect()
    raw.send(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    fake.wait_for(1)
    received = b""
    while b"data: 1\n\n\r\n" not in received:
        received += raw.read(1)
    assert not fake.ledger[0].finished
    fake.release()
    assert raw.read_all().endswith(b"data: 2\n\n\r\n0\r\n\r\n")


def test_scripted_chat_chunks_name_the_model(fake, client):
    events = [Event(content="Hel"), Event(content="lo", finish_reason="stop"), "[DONE]"]
    fake.enqueue(Reply(events=events), match=Match(task="chat"))
    lines = client.chat(stream=True).data.decode().split("\n\n")
    first, second = (json.loads(line.removeprefix("data: ")) for line in lines[:2])
    assert first["model"] == "m"
    assert first["choices"][0]["finish_reason"] is None
    assert second["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": "lo"},
        "finish_reason": "stop",
    }
    assert lines[2] == "data: [DONE]"


def test_http_1_0_gets_no_chunks(fake, connect):
    fake.enqueue(Reply(events=["1"]))
    raw = connect()
    raw.send(b"GET / HTTP/1.0\r\n\r\n")
    answer = raw.read_all()
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\ndata: 1\n\n")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503, 599])
def test_an_error_status_brings_an_error(fake, client, status):
    fake.enqueue(Reply(status=status))
    response = client.chat()
    assert response.status == status
    assert json.loads(response.data)["error"]


def test_retry_after(fake, client):
    fake.enqueue(Reply(retry_after=30))
    fake.enqueue(Reply(status=503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"))
    first, second = client.chat(), client.chat()
    assert (first.status, first.headers["Retry-After"]) == (429, "30")
    assert (second.status, second.headers["Retry-After"]) == (503, "Wed, 21 Oct 2015 07:28:00 GMT")


def test_headers_on_the_healthy_answer(fake, client):
    fake.enqueue(Reply(headers={"RateLimit": '"api";r=0;t=55', "Content-Type": "text/odd"}))
    response = client.chat()
    assert response.status == 200
    assert response.headers["ratelimit"] == '"api";r=0;t=55'
    assert response.headers.get_all("content-type") == ["text/odd"]
    assert json.loads(response.data)["choices"]
