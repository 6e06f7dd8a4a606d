"""Requests that offer another protocol, cut into packets at every place."""

import pytest

from hybrid_infer.server.parsing import OneProtocolParser, is_offer

CLOSES = "close, Upgrade"
FRAMED = {
    "length": "Content-Length: 9\r\n\r\nUpgrade: ",
    "chunks": "Transfer-Encoding: chunked\r\n\r\n9\r\nUpgrade: \r\n0\r\nA: trailer\r\n\r\n",
    "none": "\r\n",
}


class Requests:
    """What a parser tells of."""

    def __init__(self, *packets):
        self.seen, self.url, self.headers, self.body = [], b"", [], b""
        self.parser = OneProtocolParser(self)
        for packet in packets:
            self.parser.feed_data(packet)

    def on_message_begin(self):
        self.url, self.headers, self.body = b"", [], b""

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        self.headers.append((name.lower(), value))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        if not is_offer(self.parser):
            self.seen.append((self.parser.get_method(), self.url, dict(self.headers), self.body))


def offering(connection, framing):
    lines = (
        "POST /a?b HTTP/1.1",
        f"Connection: {connection}",
        "uPGRADE: h2c",
        "Twice: 1",
        "Twice: 2",
    )
    return ("\r\n".join([*lines, FRAMED[framing]])).encode()


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("connection", ["Upgrade, HTTP2-Settings", "keep-alive, Upgrade", CLOSES])
def test_they_are_read_as_if_they_did_not(connection, framing):
    data = offering(connection, framing) * 2 + b"GET /z HTTP/1.1\r\n\r\n"
    bodies = [request[3] for request in Requests(data).seen]
    body = b"" if framing == "none" else b"Upgrade: "
    assert bodies == ([body] if connection == CLOSES else [body, body, b""])
    first = Requests(data).seen[0]
    assert first[:2] == (b"POST", b"/a?b")
    assert b"upgrade" not in first[2]
    assert (first[2][b"connection"], first[2][b"twice"]) == (connection.encode(), b"2")
    expected = Requests(data).seen
    for cut in range(len(data)):
        assert Requests(data[:cut], data[cut:]).seen == expected
    assert Requests(*(data[at : at + 1] for at in range(len(data)))).seen == expected
