import json

import pytest

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


def head_of(raw):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = raw.read(1)
        if not piece:
            break
        head += piece
    return head


def test_a_chunked_body_is_joined(fake, connect):
    raw = connect()
    raw.send(b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
    for byte in CHAT[:-5]:
        raw.send(b"1\r\n%c\r\n" % byte)
    raw.send(b"5;ext=1\r\n" + CHAT[-5:] + b"\r\n0\r\ntrailer: x\r\n\r\n")
    assert head_of(raw).startswith(b"HTTP/1.1 200 OK\r\n")
    assert fake.ledger[0].body == CHAT


def test_a_client_that_expects_100_continue_gets_it_first(fake, connect):
    raw = connect()
    length = str(len(CHAT)).encode()
    raw.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: "
        + length
        + b"\r\n\r\n"
    )
    assert head_of(raw) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert fake.ledger == []
    raw.send(CHAT)
    assert head_of(raw).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_request_in_single_bytes(fake, connect):
    raw = connect()
    for byte in b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n":
        raw.send(bytes([byte]))
    assert head_of(raw) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "header", "is_closed"),
    [
        (b"GET /health HTTP/1.1", b"", False),
        (b"GET /health HTTP/1.1", b"Connection: Close\r\n", True),
        (b"GET /health HTTP/1.0", b"", True),
        (b"GET /health HTTP/1.0", b"connection: keep-alive\r\n", False),
    ],
)
def test_when_a_connection_is_kept(fake, connect, line, header, is_closed):
    raw = connect()
    raw.send(line + b"\r\n" + header + b"\r\n")
    assert (b"connection: close" in head_of(raw)) is is_closed
    if is_closed:
        assert raw.read(1) == b""
    else:
        raw.send(line + b"\r\n" + header + b"\r\n")
        assert head_of(raw)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, 431),
    ],
)
def test_what_is_not_http_is_refused(fake, connect, request_bytes, status):
    raw = connect()
    raw.send(request_bytes)
    head = head_of(raw)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head
    assert fake.ledger == []


@pytest.mark.parametrize(
    "part", [b"", b"GET /he", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nab"]
)
def test_a_client_that_goes_in_the_middle_is_forgotten(fake, connect, client, part):
    raw = connect()
    raw.send(part)
    raw.close()
    assert client.send("GET", "/health").status == 200
    assert len(fake.ledger) == 1


def test_head_has_no_body(fake, connect):
    raw = connect()
    raw.send(b"HEAD /v1/models HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n")
    first = head_of(raw)
    assert b"content-length: 0" not in first
    assert b"content-length: " in first
    assert head_of(raw) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def test_a_large_body_and_a_large_answer(fake, client):
    content = "word " * 200_000
    response = client.chat(content, max_tokens=200_000)
    said = json.loads(response.data)["choices"][0]["message"]["content"]
    assert said == content.strip()
    assert fake.ledger[0].body_json["messages"][0]["content"] == content


def test_paths_are_decoded(fake, client):
    path = "/hf-inference/models/org/a%20b/pipeline/feature-extraction"
    assert client.post(path, {"inputs": "x"}).status == 200
    assert fake.ledger[0].path == "/hf-inference/models/org/a b/pipeline/feature-extraction"
    assert fake.ledger[0].model == "org/a b"
