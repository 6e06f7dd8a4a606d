from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from hybrid_infer.errors import RemoteProtocolError
from hybrid_infer.remote.bodies import BodyDecoder, Sender

SENDER = Sender("host", 200)


def decoded(data: bytes, encoding: str = "gzip", max_bytes: int = 1000, step: int = 7) -> bytes:
    decoder = BodyDecoder(encoding, max_bytes, SENDER)
    body = b"".join(decoder.feed(data[at : at + step]) for at in range(0, len(data), step))
    decoder.finish()
    return body


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("", b"text"),
        ("identity", b"text"),
        ("gzip", gzip.compress(b"text")),
        (" GZip ", gzip.compress(b"text")),
        ("deflate", zlib.compress(b"text")),
        ("gzip", gzip.compress(b"te") + gzip.compress(b"xt")),
    ],
)
def test_bodies_are_decoded(encoding, data, step):
    assert decoded(data, encoding, step=step) == b"text"


def test_a_body_may_be_as_large_as_allowed_and_no_larger():
    assert len(decoded(gzip.compress(b"x" * 1000))) == 1000
    with pytest.raises(RemoteProtocolError, match="1000 bytes") as caught:
        decoded(gzip.compress(b"x" * 1001))
    assert caught.value.status == 200


def test_a_bomb_never_unfolds_in_memory():
    bomb = gzip.compress(b"0" * 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decoded(bomb, step=len(bomb))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [1, 10, 15, -1])
def test_compression_that_breaks_off_is_noticed(cut):
    with pytest.raises(RemoteProtocolError, match="breaks off") as caught:
        decoded(gzip.compress(b"text" * 50)[:cut])
    assert caught.value.status is None
