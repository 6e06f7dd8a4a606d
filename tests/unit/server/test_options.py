import socket

import pytest

from hybrid_infer import ConfigError
from hybrid_infer.server.options import ServerKey, own_names, server_options


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com", "127.example.com"])  # noqa: S104 - refused
@pytest.mark.parametrize("key", [None, ""])
def test_a_public_address_needs_a_key(host, key):
    with pytest.raises(ConfigError, match="HYBRID_INFER_SERVER_KEY"):
        server_options(host, 8080, key)
    assert server_options(host, 8080, "k").key is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_this_machine_needs_none(host):
    assert server_options(host, 8080, None).key is None


@pytest.mark.parametrize("key", ["a b", "ä", "a\n", "\x00", "k" * 513])
def test_a_key_that_no_client_can_send_is_refused_unseen(key):
    with pytest.raises(ConfigError) as caught:
        server_options("127.0.0.1", 8080, key)
    assert key not in caught.value.message


@pytest.mark.parametrize("host", ["", "a b", "http://x", "-x", "x/y"])
def test_what_is_no_host(host):
    with pytest.raises(ConfigError):
        server_options(host, 8080, "k")
    with pytest.raises(ConfigError):
        server_options("127.0.0.1", 8080, None, [host])


def test_a_key_shows_itself_nowhere():
    options = server_options("127.0.0.1", 8080, "secret-of-mine")
    assert "secret-of-mine" not in repr(options) + str(options)
    assert options.key.matches(b"secret-of-mine")
    for wrong in (b"", b"secret-of-min", b"secret-of-mine2", b"\xff"):
        assert not options.key.matches(wrong)


def test_a_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "hmac.compare_digest", lambda mine, given: compared.append(given) or mine == given
    )
    assert not ServerKey("k").matches(b"x")
    assert compared == [b"x"]


def test_names_of_this_machine():
    assert own_names(server_options("127.0.0.1", 1, None)) == {"localhost", "127.0.0.1"}
    names = own_names(server_options("0.0.0.0", 1, "k", ["Proxy.example"]))  # noqa: S104 - not bound
    assert {"proxy.example", socket.gethostname().lower()} <= names
