from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.registry.urls import is_loopback, validated_base_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://router.huggingface.co", "https://router.huggingface.co"),
        ("https://host/", "https://host"),
        ("http://127.0.0.1:8080/v1//", "http://127.0.0.1:8080/v1"),
        ("http://[::1]:8080/a/b/", "http://[::1]:8080/a/b"),
        ("http://gpu-box.lan:80", "http://gpu-box.lan:80"),
        ("HTTPS://Host/Path", "HTTPS://Host/Path"),
    ],
)
def test_accepted(url, expected):
    assert validated_base_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "host:80",
        "//host",
        "ftp://host",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user:secret@host",
        "https://@host",
        "https://host?key=secret",
        "https://host?",
        "https://host#secret",
        "https://host:99999",
        "https://host:0",
        "https://host:port",
        "https://ho st",
        "https://host\n",
        "https://höst",
        "https://[::1",
        "https://-host",
        "https://ho%73t",
        "https://" + "a" * 3000,
        b"https://host",
        None,
        3,
    ],
)
def test_refused_without_an_echo(url):
    with pytest.raises(ValueError, match=r"^must ") as caught:
        validated_base_url(url)
    assert "secret" not in str(caught.value)


@given(st.text() | st.from_regex(r"https?://[a-z:@\[\]/?#%.0-9]{0,30}"))
def test_any_text_is_a_url_or_a_value_error(url):
    try:
        clean = validated_base_url(url)
    except ValueError:
        return
    assert validated_base_url(clean) == clean
    is_loopback(clean)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:1/x", True),
        ("http://localhost:8000", True),
        ("http://LOCALHOST", True),
        ("http://hub.localhost", False),
        ("http://0.0.0.0", False),
        ("http://10.0.0.1", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("https://router.huggingface.co", False),
    ],
)
def test_loopback(url, loopback):
    assert is_loopback(validated_base_url(url)) is loopback
