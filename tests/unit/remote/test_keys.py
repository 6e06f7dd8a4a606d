from __future__ import annotations

import copy
import json
import pickle

import pytest

from hybrid_infer.datatypes.models import RemoteSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.remote.keys import (
    MASK,
    Secret,
    find_key,
    is_huggingface_host,
    is_loopback,
    redact,
    redact_known,
)

ROUTER = "https://router.huggingface.co"
AMBIENT = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_API_KEY",
    "HUGGINGFACEHUB_API_TOKEN",
]


@pytest.fixture(autouse=True)
def _no_ambient_keys(monkeypatch, tmp_path):
    for name in AMBIENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def found(url=ROUTER, explicit=None, key_env=None):
    key = find_key(RemoteSpec("remote", "hf-router", url, key_env=key_env), explicit)
    return None if key is None else key.reveal()


def test_the_order_of_look_up(monkeypatch, tmp_path):
    login = tmp_path / "token"
    assert found() is None
    sources = ["explicit", "OWN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "login"]
    sources += ["HUGGINGFACE_API_KEY", "HUGGINGFACEHUB_API_TOKEN"]
    for source in reversed(sources[1:]):
        if source == "login":
            login.write_text("key-of-login\n")
        else:
            monkeypatch.setenv(source, f" key-of-{source} ")
        assert found(key_env="OWN") == f"key-of-{source}"
    assert found(explicit="key", key_env="OWN") == "key"


@pytest.mark.parametrize("name", AMBIENT)
@pytest.mark.parametrize(
    ("url", "goes"),
    [
        (ROUTER, True),
        ("https://huggingface.co/api", True),
        ("https://abc.eu-west-1.aws.endpoints.huggingface.cloud", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080/v1", True),
        ("http://[::1]:8080", True),
        ("https://example.com", False),
        ("https://huggingface.co.example.com", False),
        ("https://nothuggingface.co", False),
        ("https://router.huggingface.co@example.com", False),
        ("http://192.168.1.7:8080", False),
        ("https://10.0.0.1", False),
    ],
)
def test_where_ambient_keys_go(monkeypatch, name, url, goes):
    monkeypatch.setenv(name, "ambient")
    assert found(url) == ("ambient" if goes else None)


def test_a_saved_login_stays_at_home(tmp_path):
    (tmp_path / "token").write_text("login")
    assert found() == "login"
    assert found("https://example.com") is None


def test_other_hosts_get_explicit_keys_and_their_own(monkeypatch):
    monkeypatch.setenv("OWN", "own")
    monkeypatch.setenv("HF_TOKEN", "ambient")
    assert found("https://example.com", key_env="OWN") == "own"
    assert found("https://example.com", explicit="given") == "given"
    assert found("https://example.com", key_env="UNSET_VARIABLE") is None
    assert found("https://example.com", explicit="hf-token", key_env="OWN") == "own"
    assert found("http://127.0.0.1:8000", explicit="hf-token", key_env="OWN") == "own"
    assert found(ROUTER, explicit="given", key_env="OWN") == "given"


@pytest.mark.parametrize(
    "url", ["http://example.com", "http://router.huggingface.co", "http://10.0.0.1"]
)
def test_a_key_never_travels_unencrypted(url):
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        found(url, explicit="top-secret")
    assert "top-secret" not in str(caught.value)


def test_no_key_may_travel_unencrypted():
    assert found("http://10.0.0.1") is None


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_an_empty_key_is_none(monkeypatch, empty):
    monkeypatch.setenv("HF_TOKEN", "ambient")
    assert found(explicit=empty) == "ambient"
    monkeypatch.setenv("HF_TOKEN", empty)
    assert found(explicit=empty) is None


@pytest.mark.parametrize(
    "bad",
    ["sec\nret", "sec\rret", "sec\0ret", "sec ret", "sec\u2019ret", "sec\x7fret", "sec\ud800ret"],
)
def test_a_key_that_no_header_can_carry_is_refused_unseen(bad):
    with pytest.raises(ConfigError, match="api_key") as caught:
        found(explicit=bad)
    assert "sec" not in str(caught.value)
    with pytest.raises(ConfigError):
        found("http://127.0.0.1", explicit=bad)


def test_a_key_of_the_wrong_type_is_refused():
    with pytest.raises(ConfigError, match="must be text"):
        found(explicit=b"bytes")


def test_a_secret_shows_nothing():
    secret = Secret("top-secret")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{[secret]!r}"):
        assert "top" not in text
        assert "***" in text
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        json.dumps(secret)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(secret, protocol)


def test_secrets_compare_by_value():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert copy.copy(Secret("a")) == copy.deepcopy(Secret("a")) == Secret("a")


@pytest.mark.parametrize("value", ["sk-plain0123", "s3cr'et\\K\xe9y", "with\"both'quotes"])
def test_a_key_is_masked_as_text_and_bytes_show_it_too(value):
    secret = Secret(value)
    headers = [(b"X-Echo", value.encode("latin-1")), (b"Other", b"'")]
    for text in (value, repr(value), repr([value, "'", '"']), repr(headers), f'{headers} "'):
        shown = redact(text, secret)
        assert value not in shown
        assert MASK in shown
        assert shown == redact_known(text)


def test_redact():
    secret = Secret("my-key")
    assert redact("a my-key b hf_" + "x" * 30, secret) == "a *** b ***"
    assert redact("nothing", None) == "nothing"


@pytest.mark.parametrize("url", ["", "http://[", "not a url", "https://"])
def test_odd_urls_belong_to_nobody(url):
    assert not is_huggingface_host(url)


def test_loopback_is_told_by_its_form():
    assert is_loopback("http://127.8.9.1:80")
    assert not is_loopback("http://128.0.0.1:80")
